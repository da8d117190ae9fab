"""Text to token ids, off the event loop where it takes long."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

import tokenizers
from jinja2 import TemplateError

from nimlite.errors import ContextLengthError, ModelError, RequestError
from nimlite.server.chat_template import ChatTemplate, json_of
from nimlite.server.conversation import Conversation, RenderedPrompt
from nimlite.server.dialect import Dialect
from nimlite.server.token_bytes import TokenBytes

P = ParamSpec("P")
T = TypeVar("T")

_TEMPLATE_ERRORS = (
    *(TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError),
    RecursionError,
)
"""What a template may do wrong with messages and variables that it doesn't expect."""
_INLINE_CHARS = 4096
"""Texts up to it are encoded in about a millisecond: less than a thread costs."""


class Tokenizer:
    """A model's tokenizer and chat template. Thread-safe: the backend's state is never changed."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        template: ChatTemplate | None,
        *,
        tool_parser: str | None = None,
        reasoning_parser: str | None = None,
        appended: str | None = None,
    ) -> None:
        """The names of parsers override what the template says of the model's dialect. `appended`:
        a special token behind every text that gets special tokens."""
        self._template = template
        self.dialect = Dialect.of(
            "\n".join(template.sources) if template else "",
            tool_parser=tool_parser,
            reasoning_parser=reasoning_parser,
        )
        self._backend = backend
        self._backend.no_truncation()
        self._backend.no_padding()
        self._appended = None if appended is None else self._backend.token_to_id(appended)
        self.token_bytes = TokenBytes(self._backend)
        # No token stands for more characters than its own name has.
        self._longest_token = max(map(len, self._backend.get_vocab()))

        found = ((mark, self._backend.token_to_id(mark)) for mark in self.dialect.marks)
        self.special_marks = {
            mark: token_id for mark, token_id in found if token_id in self.token_bytes.special_ids
        }
        """Marks that an output parser must see, although their tokens are special."""

    @classmethod
    def load(
        cls,
        directory: Path,
        *,
        tool_parser: str | None = None,
        reasoning_parser: str | None = None,
    ) -> "Tokenizer":
        """From the files in an engine or checkpoint directory. Raises ModelError."""
        file = directory / "tokenizer.json"
        if not file.is_file():
            raise ModelError(f"{directory} has no tokenizer.json, which this server needs.")
        try:
            backend = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises nothing narrower
            raise ModelError(f"{directory} holds no tokenizer that can be read: {error}") from error
        return cls(
            backend,
            ChatTemplate.load(directory),
            tool_parser=tool_parser,
            reasoning_parser=reasoning_parser,
            appended=_appended(directory),
        )

    async def encode(
        self,
        texts: Sequence[str],
        *,
        max_tokens: int,
        add_special_tokens: bool = True,
        param: str = "prompt",
    ) -> list[tuple[int, ...]]:
        """Each text as token ids, with the special tokens that the model puts around a text.

        Raises ContextLengthError, without the work, for a text that can't fit into `max_tokens`;
        `param`: the field that it came from.
        """
        for text in texts:
            self._check_length(text, max_tokens, param=param)
        return await _run(
            sum(map(len, texts)), self._encode, texts, add_special_tokens=add_special_tokens
        )

    def encode_part(self, text: str) -> tuple[int, ...]:
        """A few characters in the middle of a text."""
        return self._encode([text], add_special_tokens=False)[0]

    async def encode_chat(self, conversation: Conversation, *, max_tokens: int) -> RenderedPrompt:
        """The conversation through the model's chat template, open for the assistant's turn.

        Raises RequestError where the template refuses it.
        """
        return await _run(conversation.num_chars, self._encode_chat, conversation, max_tokens)

    def _encode(
        self, texts: Sequence[str], *, add_special_tokens: bool = True
    ) -> list[tuple[int, ...]]:
        encodings = self._backend.encode_batch_fast(
            list(texts), add_special_tokens=add_special_tokens
        )
        token_ids = [tuple(encoding.ids) for encoding in encodings]
        if self._appended is None or not add_special_tokens:
            return token_ids
        end = self._appended
        return [ids if ids[-1:] == (end,) else (*ids, end) for ids in token_ids]

    def _encode_chat(self, conversation: Conversation, max_tokens: int) -> RenderedPrompt:
        text = self._render(conversation)
        self._check_length(text, max_tokens, param="messages")
        # The template has written the special tokens itself: no second BOS.
        [token_ids] = self._encode([text], add_special_tokens=False)
        return RenderedPrompt(text=text, token_ids=token_ids)

    def _render(self, conversation: Conversation) -> str:
        if self._template is None:
            raise RequestError(
                "This model has no chat template; use /v1/completions.", param="messages"
            )
        try:
            return self._template.render(conversation)
        except _TEMPLATE_ERRORS as error:
            raise RequestError(
                f"The model's chat template refuses these messages: {error}", param="messages"
            ) from error

    def _check_length(self, text: str, max_tokens: int, *, param: str) -> None:
        least = len(text) // self._longest_token
        if least > max_tokens:
            raise ContextLengthError(
                f"This model's maximum context length is {max_tokens} tokens; the prompt of "
                f"{len(text)} characters has at least {least}.",
                param=param,
            )


def _appended(directory: Path) -> str | None:
    """What transformers appends although tokenizer.json does not say so, as e5-mistral asks for."""
    config = json_of(directory / "tokenizer_config.json")
    token = config.get("eos_token") if config.get("add_eos_token") else None
    return token["content"] if isinstance(token, dict) else token


async def _run(num_chars: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    if num_chars <= _INLINE_CHARS:
        return function(*args, **kwargs)
    return await asyncio.to_thread(function, *args, **kwargs)
