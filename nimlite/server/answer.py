"""How both generating endpoints answer: whole or streamed, and never for a client that has gone."""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, Protocol

import anyio
from fastapi import Response
from starlette.types import Receive, Scope, Send

from nimlite.errors import NimliteError, NotReadyError
from nimlite.server.choice import Piece
from nimlite.server.errors import error_object, internal_error_object, json_response
from nimlite.server.generation import Generation, Job
from nimlite.server.protocol import GenerationBody
from nimlite.server.state import ServedModel, ServerState
from nimlite.server.streaming import DONE, ChunkEncoder, event, read_ahead, usage_tail

_log = logging.getLogger(__name__)


class AnswerFormat(Protocol):
    """The shapes of one endpoint."""

    object: str
    chunk_object: str

    def opening(self, num_choices: int) -> list[dict[str, Any]]:
        """Choices of the chunks that begin a stream."""

    def delta(self, piece: Piece) -> dict[str, Any]:
        """One choice of a chunk."""

    def choice(self, piece: Piece) -> dict[str, Any]:
        """One choice of a whole answer."""


Prepare = Callable[[ServedModel], Awaitable[Job]]


class Answer(Response):
    """Prepares, generates and sends, until done or until the client goes away.

    An error before the first byte propagates to the error handlers; after it, it becomes an event
    of the stream.
    """

    def __init__(
        self,
        state: ServerState,
        body: GenerationBody,
        *,
        answer_id: str,
        prepare: Prepare,
        answer_format: Callable[[ServedModel], AnswerFormat],
    ) -> None:
        super().__init__()
        self._state = state
        self._body = body
        self._id = answer_id
        self._prepare = prepare
        self._answer_format = answer_format
        self._scope = anyio.CancelScope()
        self._interrupted = False
        self._is_streaming = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._state.running.add(self)
        try:
            with self._scope:
                watcher = asyncio.create_task(self._cancel_on_disconnect(receive))
                try:
                    await self._run(scope, receive, send)
                finally:
                    watcher.cancel()
        finally:
            self._state.running.discard(self)
        if self._interrupted:
            await self._send_interruption(send)

    def interrupt(self) -> None:
        self._interrupted = True
        self._scope.cancel()

    async def _cancel_on_disconnect(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._scope.cancel()

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        model = self._state.admit(self._body.model)
        job = await self._prepare(model)
        generation = Generation(job, model, self._state.metrics)
        answer_format = self._answer_format(model)
        if self._body.stream:
            await self._stream(generation, answer_format, len(job.prompts) * job.n, send)
        else:
            response = await self._whole(generation, answer_format)
            await response(scope, receive, send)

    def _head(self, object_name: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": object_name,
            "created": int(time.time()),
            "model": self._body.model,
        }

    async def _whole(self, generation: Generation, answer_format: AnswerFormat) -> Response:
        pieces: dict[int, list[Piece]] = {}
        async with contextlib.aclosing(generation.pieces()) as arriving:
            async for batch in arriving:
                for piece in batch:
                    pieces.setdefault(piece.choice, []).append(piece)
        choices = [answer_format.choice(Piece.join(pieces[index])) for index in sorted(pieces)]
        content = self._head(answer_format.object) | {
            "choices": choices,
            "usage": generation.usage(),
        }
        return json_response(content)

    async def _stream(
        self, generation: Generation, answer_format: AnswerFormat, num_choices: int, send: Send
    ) -> None:
        events = self._events(generation, answer_format, num_choices)
        async with contextlib.aclosing(events):
            # The first event is awaited before the status is sent, so that refusals have theirs.
            first = await anext(events)
            await self._start_stream(send)
            await _send_body(send, first)
            try:
                async for data in events:
                    await _send_body(send, data)
            except NimliteError as error:
                await _send_body(send, event(error_object(error)))
            except Exception:  # noqa: BLE001 - the edge: a stream can only end with an event
                _log.exception("A stream ended by an internal error")
                await _send_body(send, event(internal_error_object()))
            await _send_body(send, DONE, more=False)

    async def _events(
        self, generation: Generation, answer_format: AnswerFormat, num_choices: int
    ) -> AsyncGenerator[bytes, None]:
        options = self._body.stream_options
        shows_usage = options is not None and bool(options.include_usage)
        shows_progress = options is not None and bool(options.continuous_usage_stats)
        encoder = ChunkEncoder(self._head(answer_format.chunk_object))

        def tail() -> bytes:
            if shows_progress:
                return usage_tail(generation.usage())
            return usage_tail(None) if shows_usage else b""

        opening = answer_format.opening(num_choices)
        pieces = generation.pieces()
        if self._body.stop_strings:
            # The engine computes on until one is found.
            pieces = read_ahead(pieces)
        async with contextlib.aclosing(pieces) as batches:
            async for batch in batches:
                choices = opening + [answer_format.delta(piece) for piece in batch]
                opening = []
                yield encoder.chunks(choices, tail())
        if shows_usage:
            yield encoder.usage_chunk(generation.usage())

    async def _start_stream(self, send: Send) -> None:
        self._is_streaming = True
        headers: Mapping[bytes, bytes] = {
            b"content-type": b"text/event-stream; charset=utf-8",
            b"cache-control": b"no-cache",
            b"x-accel-buffering": b"no",
        }
        await send({"type": "http.response.start", "status": 200, "headers": list(headers.items())})

    async def _send_interruption(self, send: Send) -> None:
        error = NotReadyError("The server shut down before the answer was complete.")
        if not self._is_streaming:
            raise error
        await _send_body(send, event(error_object(error)) + DONE, more=False)


def new_id(prefix: str) -> str:
    """An id for one answer, as OpenAI's: `chatcmpl-…`."""
    return f"{prefix}-{uuid.uuid4().hex}"


async def _send_body(send: Send, data: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})
