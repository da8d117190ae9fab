"""A grammar in llguidance's own form."""

import json
import re
from collections.abc import Callable
from typing import Any

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import any_to_lark

from nimlite.engine.request import Grammar, GrammarKind, Thoughts
from nimlite.engine.schema_rewrite import simplify

WHITESPACE = r"( |\n[ \t]{0,32})?"
"""Between the tokens of a JSON text: as models write it, on one line or indented, and no more, for
small ones lose themselves in blanks."""

TokenOf = Callable[[str], int | None]
"""The id of a text that is a token of its own, apart from the vocabulary of ordinary text."""


def grammar_source(grammar: Grammar, token_of: TokenOf) -> str:
    """Raises ValueError or RecursionError for what can't be read."""
    source = _source(grammar)
    if grammar.thoughts is None:
        return source
    if grammar.kind in (GrammarKind.JSON_SCHEMA, GrammarKind.REGEX):
        [body] = json.loads(source)["grammars"]
    else:
        body = {"lark_grammar": source}
    thoughts = {"lark_grammar": _thoughts(grammar.thoughts, token_of)}
    return json.dumps({"grammars": [thoughts, body | {"name": "body"}]})


def read_schema(text: str) -> dict[str, Any]:
    """A schema as an object. Raises as `grammar_source` does."""
    schema = json.loads(text)
    if isinstance(schema, bool):
        return {} if schema else {"not": {}}
    if not isinstance(schema, dict):
        raise ValueError("a JSON schema is an object, or true, or false")
    return simplify(schema)


def schema_source(schema: dict[str, Any], whitespace: str | None) -> str:
    return LLMatcher.grammar_from_json_schema(
        json.dumps(schema),
        overrides={
            "whitespace_pattern": WHITESPACE if whitespace is None else whitespace,
            "lenient": False,
            "coerce_one_of": False,
        },
    )


def _source(grammar: Grammar) -> str:
    match grammar.kind:
        case GrammarKind.JSON_SCHEMA:
            return schema_source(read_schema(grammar.text), grammar.whitespace)
        case GrammarKind.REGEX:
            return LLMatcher.grammar_from_regex(grammar.text)
        case GrammarKind.LARK:
            return LLMatcher.grammar_from_lark(grammar.text)
        case GrammarKind.EBNF:
            return LLMatcher.grammar_from_lark(_lark(grammar.text))


def _lark(text: str) -> str:
    """Raises ValueError for what is neither Lark nor GBNF."""
    try:
        return any_to_lark(text)
    except Exception as error:  # the converter raises bare ones
        reason = str(error).rstrip(".")
        raise ValueError(f"as GBNF: {reason}; and a Lark grammar has a rule 'start: …'") from error


def _thoughts(thoughts: Thoughts, token_of: TokenOf) -> str:
    """Lark for any text up to the mark that ends it, then `@body`."""

    def mark(text: str) -> str:
        token = token_of(text)
        return json.dumps(text) if token is None else f"<[{token}]>"

    end = re.escape(thoughts.end).replace("/", r"\/")
    if token_of(thoughts.end) is None:
        thought, rule = "thought", rf"thought[lazy]: /(.|\n)*{end}/"
    else:  # its text, spelled by other tokens, would be taken for the end, too
        thought = f"THOUGHT {mark(thoughts.end)}"
        rule = rf"THOUGHT: /(.|\n)*/ & ~/(.|\n)*{end}(.|\n)*/"
    whole = f"{thought} /[ \\n]{{0,4}}/"
    start = whole if thoughts.is_open else f"({mark(thoughts.begin)} {whole})?"
    return f"start: {start} @body\n{rule}"
