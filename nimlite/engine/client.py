"""The asyncio side of the engine loop: requests as async iterators of deltas."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from nimlite.engine.engine import Engine
from nimlite.engine.loop import EngineLoop
from nimlite.engine.request import Delta, EngineStats, FinishReason, Request
from nimlite.errors import EngineDeadError


class EngineClient:
    """Joins an engine's thread to one asyncio event loop: one message a step in each direction."""

    def __init__(self, engine: Engine) -> None:
        """Must be called inside the event loop that will iterate; starts the engine's thread."""
        self._engine = engine
        self._asyncio_loop = asyncio.get_running_loop()
        self._queues: dict[str, asyncio.Queue[Delta]] = {}
        self._loop = EngineLoop(engine, self._on_deltas)
        self._loop.start()

    @property
    def is_alive(self) -> bool:
        return self._loop.is_alive

    def stats(self) -> EngineStats:
        return self._loop.stats

    def abort(self, request_id: str) -> None:
        """End a request now: its iterator gets a last delta with ABORT. Unknown ids are ignored."""
        deltas = self._queues.pop(request_id, None)
        if deltas is not None:
            deltas.put_nowait(Delta(request_id=request_id, finish_reason=FinishReason.ABORT))
            self._loop.abort([request_id])

    def close(self) -> None:
        """Stop the engine's thread; requests under way end with an error."""
        if self._loop.is_alive:
            self._loop.stop()

    async def generate(self, requests: Sequence[Request]) -> AsyncIterator[Delta]:
        """The deltas of all `requests`, interleaved, until each has finished or was aborted.

        Closing the iterator aborts what still runs. Raises ContextLengthError for a request that
        could never fit, EngineDeadError where the engine has stopped.
        """
        if not self.is_alive:
            raise EngineDeadError("The engine has stopped; the server must be restarted.")
        for request in requests:
            self._engine.check(request)
        deltas: asyncio.Queue[Delta] = asyncio.Queue()
        unfinished = {request.id for request in requests}
        self._queues.update(dict.fromkeys(unfinished, deltas))
        self._loop.submit(requests)
        try:
            while unfinished:
                delta = await deltas.get()
                if delta.finish_reason is not None:
                    unfinished.discard(delta.request_id)
                yield delta
        finally:
            for request_id in unfinished:
                self._queues.pop(request_id, None)
            if unfinished:
                self._loop.abort(sorted(unfinished))

    def _on_deltas(self, deltas: Sequence[Delta]) -> None:
        self._asyncio_loop.call_soon_threadsafe(self._dispatch, deltas)

    def _dispatch(self, deltas: Sequence[Delta]) -> None:
        for delta in deltas:
            target = self._queues.get(delta.request_id)
            if target is None:
                continue
            if delta.finish_reason is not None:  # an abort comes too late from here on
                del self._queues[delta.request_id]
            target.put_nowait(delta)
