"""How the generating endpoints answer: whole or streamed, and never for a client that has gone."""

import contextlib
import dataclasses
import logging
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send

from nimlite.errors import NimliteError
from nimlite.server.caller import Caller
from nimlite.server.choice import Piece
from nimlite.server.errors import json_response
from nimlite.server.generation import Generation, Job
from nimlite.server.state import ServedModel, ServerState
from nimlite.server.streaming import read_ahead
from nimlite.server.usage import Usage
from nimlite.server.watched import WatchedResponse

_log = logging.getLogger(__name__)


class Encoder(Protocol):
    """How one protocol writes an answer; a new one for each answer."""

    def whole(self, pieces: Sequence[Piece], usage: Usage) -> dict[str, Any]:
        """The answer in one; a piece a choice."""

    def opening(self, num_choices: int) -> bytes:
        """What a stream begins with; it is sent with the first pieces."""

    def pieces(self, pieces: Sequence[Piece], usage: Callable[[], Usage]) -> bytes:
        """What has come, at most one piece a choice; `usage` gives that of now."""

    def closing(self, usage: Usage) -> bytes:
        """What a stream ends with."""

    def failure(self, error: NimliteError | None) -> bytes:
        """What a stream breaks off with; None for our own bugs."""


Prepare = Callable[[ServedModel], Awaitable[Job]]


class Answer(WatchedResponse):
    """Prepares, generates and sends, until done or until the client goes away.

    An error before the first byte propagates to the error handlers; after it, it becomes an event
    of the stream.
    """

    def __init__(
        self,
        state: ServerState,
        *,
        model_name: str,
        stream: bool,
        prepare: Prepare,
        encoder: Callable[[ServedModel], Encoder],
    ) -> None:
        super().__init__(state)
        self._model_name = model_name
        self._stream = stream
        self._prepare = prepare
        self._encoder = encoder
        self._running_encoder: Encoder | None = None
        """Of a stream that has begun."""

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        model, ticket = self._state.admit(self._model_name, self.caller)
        num_tokens = 0
        try:
            job = for_caller(await self._prepare(model), self.caller)
            self.answer_id = job.id
            generation = Generation(job, model, self._state.metrics)
            encoder = self._encoder(model)
            try:
                if self._stream:
                    await self._send_stream(_events(generation, encoder, job), encoder, send)
                else:
                    pieces = await generation.joined_pieces()
                    response = json_response(encoder.whole(pieces, generation.usage()))
                    self._is_whole = True
                    await response(scope, receive, send)
            finally:
                num_tokens = generation.usage().num_tokens
        finally:
            ticket.release(num_tokens)

    async def _send_stream(
        self, events: AsyncGenerator[bytes, None], encoder: Encoder, send: Send
    ) -> None:
        async with contextlib.aclosing(events):
            # The first event is awaited before the status is sent, so that refusals have theirs.
            first = await anext(events)
            self._running_encoder = encoder
            await _start_stream(send)
            await _send_body(send, first)
            try:
                async for data in events:
                    await _send_body(send, data)
            except NimliteError as error:
                await _send_body(send, encoder.failure(error))
            except Exception:  # noqa: BLE001 - the edge: a stream can only end with an event
                _log.exception("A stream ended by an internal error")
                await _send_body(send, encoder.failure(None))
            self._is_whole = True
            await _send_body(send, b"", more=False)

    async def _send_interruption(self, send: Send, error: NimliteError) -> None:
        if self._running_encoder is None:
            raise error
        await _send_body(send, self._running_encoder.failure(error), more=False)


async def _events(
    generation: Generation, encoder: Encoder, job: Job
) -> AsyncGenerator[bytes, None]:
    opening = encoder.opening(len(job.prompts) * job.n)
    pieces = generation.pieces()
    if job.text.stop:
        # The engine computes on until one is found.
        pieces = read_ahead(pieces)
    async with contextlib.aclosing(pieces) as batches:
        async for batch in batches:
            yield opening + encoder.pieces(batch, generation.usage)
            opening = b""
    yield encoder.closing(generation.usage())


async def _start_stream(send: Send) -> None:
    headers: Mapping[bytes, bytes] = {
        b"content-type": b"text/event-stream; charset=utf-8",
        b"cache-control": b"no-cache",
        b"x-accel-buffering": b"no",
    }
    await send({"type": "http.response.start", "status": 200, "headers": list(headers.items())})


def for_caller(job: Job, caller: Caller) -> Job:
    """The job as whose it is."""
    return dataclasses.replace(job, client=caller.client(job.user), weight=caller.key.weight)


def new_id(prefix: str) -> str:
    """An id for one answer, as OpenAI's: `chatcmpl-…`."""
    return f"{prefix}-{uuid.uuid4().hex}"


async def _send_body(send: Send, data: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})
