"""Grammars that outputs must follow, compiled once for all sequences.

The work is llguidance's (https://github.com/guidance-ai/llguidance): an Earley parser over a lexer
of regex derivatives, both built as far as a text needs them. It refuses what it does not know,
so that whatever ends has the promised form.
"""

import dataclasses
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence

from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from tokenizers import Tokenizer

from nimlite.engine.grammar_source import grammar_source, read_schema, schema_source
from nimlite.engine.request import Grammar, GrammarKind
from nimlite.engine.schema_fault import find_fault
from nimlite.errors import RequestError

MAX_GRAMMAR_CHARS = 256 * 1024
_MAX_COMPILED = 128
"""Grammars that are kept."""
_MAX_COMPILED_CHARS = 4 * 1024 * 1024
"""Of their texts together: what a grammar takes grows with its text."""
_LIMITS = LLParserLimits(max_lexer_states=50_000, verbose_errors=False)
"""A lexer's state takes up to 2 kB."""


class GrammarCompiler:
    """Matchers for grammars over one vocabulary. Thread-safe; compiling lets other threads run."""

    def __init__(
        self, tokenizer: Tokenizer | None, vocab_size: int, eos_token_ids: Sequence[int]
    ) -> None:
        """`vocab_size`: of the logits. The tokenizer's tables are made when a grammar comes, for
        they take half a second and some tens of megabytes."""
        self._tokenizer = tokenizer
        self.vocab_size = vocab_size
        if tokenizer is not None:
            self.vocab_size = max(vocab_size, tokenizer.get_vocab_size())
        self._own_tokens: dict[str, int] = {}
        if tokenizer is not None:
            added = tokenizer.get_added_tokens_decoder()
            self._own_tokens = {token.content: token_id for token_id, token in added.items()}
        self._eos_token_ids = list(eos_token_ids)
        self._tables: LLTokenizer | None = None
        self._tables_lock = threading.Lock()
        self._compiled: OrderedDict[Grammar, LLMatcher | str] = OrderedDict()
        """The matchers at the beginning of a text, or why there is none; the latest used last."""
        self._num_chars = 0
        self._lock = threading.Lock()

    def knows(self, grammar: Grammar) -> bool:
        """Whether it need not be compiled any more."""
        with self._lock:
            return grammar in self._compiled

    def check(self, grammar: Grammar) -> None:
        """Raises RequestError where it can't be followed, with the reason."""
        self._find(grammar)

    def matcher(self, grammar: Grammar) -> LLMatcher:
        """At the beginning of a text, for one sequence. Raises as `check` does."""
        return self._find(grammar).deep_copy()

    def _find(self, grammar: Grammar) -> LLMatcher:
        with self._lock:
            found = self._compiled.get(grammar)
            if found is not None:
                self._compiled.move_to_end(grammar)
        if found is None:
            found = self._compile(grammar)
            self._keep(grammar, found)
        if isinstance(found, str):
            raise RequestError(found, param=grammar.param, code="invalid_grammar")
        return found

    def _keep(self, grammar: Grammar, compiled: LLMatcher | str) -> None:
        with self._lock:
            if grammar in self._compiled:  # by another thread, meanwhile
                return
            self._compiled[grammar] = compiled
            self._num_chars += len(grammar.text)
            while len(self._compiled) > _MAX_COMPILED or self._num_chars > _MAX_COMPILED_CHARS:
                oldest, _ = self._compiled.popitem(last=False)
                self._num_chars -= len(oldest.text)

    def _compile(self, grammar: Grammar) -> LLMatcher | str:
        where = f" in '{grammar.param}'" if grammar.param else ""
        if len(grammar.text) > MAX_GRAMMAR_CHARS:
            return (
                f"The grammar{where} has {len(grammar.text)} characters; at most "
                f"{MAX_GRAMMAR_CHARS} are read here."
            )
        if not self._eos_token_ids:
            return "This model has no token that ends a text, so that no grammar can end one."
        vocabulary = self._vocabulary()
        if grammar.thoughts is not None:
            alone = self._compile(dataclasses.replace(grammar, thoughts=None))
            if isinstance(alone, str):
                return alone
        try:
            source = grammar_source(grammar, self._own_tokens.get)
        except (ValueError, RecursionError) as error:
            return f"The grammar{where} can't be read: {str(error).rstrip('.')}."

        def matcher_of(source: str) -> LLMatcher:
            return LLMatcher(vocabulary, source, log_level=0, limits=_LIMITS)

        matcher = matcher_of(source)
        reason = fault(matcher)
        if not reason:
            return matcher
        if grammar.kind is not GrammarKind.JSON_SCHEMA:
            return f"The grammar{where} can't be followed: {reason}."
        path, reason = find_fault(
            read_schema(grammar.text),
            lambda part: fault(matcher_of(schema_source(part, grammar.whitespace))),
        )
        return f"The JSON schema{where} can't be followed: at '{path}': {reason}."

    def _vocabulary(self) -> LLTokenizer:
        with self._tables_lock:
            if self._tables is None:
                if self._tokenizer is None:
                    raise RequestError("This engine has no tokenizer, which grammars need.")
                try:
                    self._tables = LLTokenizer(
                        self._tokenizer.to_str(), self.vocab_size, self._eos_token_ids
                    )
                except ValueError as error:
                    raise RequestError(
                        f"This model's tokenizer can't be used with grammars: {error}."
                    ) from error
            return self._tables


def fault(matcher: LLMatcher) -> str:
    """Why nothing can be matched, empty where something can. The first tokens that may follow are
    found for it, so that every copy knows them."""
    if not matcher.is_error():
        matcher.compute_bitmask()
    if not matcher.is_error():
        return ""
    message = matcher.get_error().split("\n<")[0].strip()
    if message.startswith("NoExtension"):
        return "no text follows it to its end"
    if unknown := re.fullmatch(r"Unimplemented keys: \[(.*)\]", message):
        return f"{unknown[1].replace(chr(34), chr(39))} is not supported here"
    return re.sub(r"\s*\n\s*", " ", message)[:600].rstrip(".")
