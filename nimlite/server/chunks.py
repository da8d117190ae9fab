"""OpenAI's chunks: how chat completions and completions write an answer."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from nimlite.errors import NimliteError
from nimlite.server.choice import Piece
from nimlite.server.errors import error_object, internal_error_object
from nimlite.server.protocol import GenerationBody
from nimlite.server.streaming import encode, event
from nimlite.server.usage import Usage

_DONE = b"data: [DONE]\n\n"


class AnswerFormat(Protocol):
    """The shapes of one endpoint."""

    object: str
    chunk_object: str

    def fields(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """What a whole answer has beside its choices."""

    def opening(self, num_choices: int) -> list[dict[str, Any]]:
        """Choices of the chunks that begin a stream."""

    def delta(self, piece: Piece) -> dict[str, Any]:
        """One choice of a chunk."""

    def choice(self, piece: Piece) -> dict[str, Any]:
        """One choice of a whole answer."""


class ChunkEncoder:
    """What all chunks of one answer have in common is encoded once."""

    def __init__(self, body: GenerationBody, answer_id: str, answer_format: AnswerFormat) -> None:
        self._format = answer_format
        self._head: dict[str, Any] = {
            "id": answer_id,
            "object": answer_format.object,
            "created": int(time.time()),
            "model": body.model,
        }
        chunk_head = encode(self._head | {"object": answer_format.chunk_object})
        self._chunk_head = b"data: " + chunk_head[:-1] + b',"choices":['
        options = body.stream_options
        self._shows_usage = options is not None and bool(options.include_usage)
        self._shows_progress = options is not None and bool(options.continuous_usage_stats)

    def whole(self, pieces: Sequence[Piece], usage: Usage) -> dict[str, Any]:
        choices = [self._format.choice(piece) for piece in pieces]
        answer = self._head | {"choices": choices, "usage": usage.as_openai()}
        return answer | self._format.fields(pieces)

    def opening(self, num_choices: int) -> bytes:
        tail = b',"usage":null' if self._shows_usage or self._shows_progress else b""
        return self._chunks(self._format.opening(num_choices), tail)

    def pieces(self, pieces: Sequence[Piece], usage: Callable[[], Usage]) -> bytes:
        tail = b',"usage":null' if self._shows_usage else b""
        if self._shows_progress:
            tail = b',"usage":' + encode(usage().as_openai())
        return self._chunks([self._format.delta(piece) for piece in pieces], tail)

    def closing(self, usage: Usage) -> bytes:
        """With `include_usage`, a chunk without choices comes before the end."""
        if not self._shows_usage:
            return _DONE
        return self._chunk_head + b'],"usage":' + encode(usage.as_openai()) + b"}\n\n" + _DONE

    def failure(self, error: NimliteError | None) -> bytes:
        return event(internal_error_object() if error is None else error_object(error)) + _DONE

    def _chunks(self, choices: Sequence[dict[str, Any]], tail: bytes) -> bytes:
        """One event a choice."""
        end = b"]" + tail + b"}\n\n"
        return b"".join([self._chunk_head + encode(choice) + end for choice in choices])
