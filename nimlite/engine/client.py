"""The asyncio side of an engine, wherever that runs: requests as async iterators of deltas."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Protocol

from nimlite.engine.limits import RequestLimits
from nimlite.engine.request import Delta, EngineStats, FinishReason, Request
from nimlite.errors import EngineDeadError, EngineError

OnDeltas = Callable[[Sequence[Delta]], None]
"""Takes what came of the latest steps, from any thread; must return at once."""
OnEnd = Callable[[str], None]
"""Hears once, from any thread, why an engine ended that nobody stopped."""


class EngineHost(Protocol):
    """Where an engine runs: in a thread (`loop.EngineLoop`) or in a process of its own
    (`process.EngineProcess`), in either case watched by a `supervisor.Supervisor`."""

    @property
    def outage(self) -> EngineError | None:
        """Why requests are not taken; None where they are. NotReadyError: it will be back."""

    @property
    def limits(self) -> RequestLimits: ...

    @property
    def stats(self) -> EngineStats: ...

    def start(self, on_deltas: OnDeltas, on_end: OnEnd | None = None) -> None:
        """Called once, in the event loop."""

    def submit(self, requests: Sequence[Request]) -> None:
        """Each request gets a last delta, whatever happens to the engine."""

    def abort(self, request_ids: Sequence[str]) -> None: ...

    def stop(self) -> None:
        """End the engine; what still runs gets a delta with `error`. Once it has ended, nothing."""


def stopped() -> EngineDeadError:
    """For who asks an engine that has ended for good."""
    return EngineDeadError("The engine has stopped; the server must be restarted.")


class EngineClient:
    """Joins an engine to one asyncio event loop: one message a step in each direction."""

    def __init__(self, host: EngineHost) -> None:
        """Must be called inside the event loop that will iterate; starts the host."""
        self._asyncio_loop = asyncio.get_running_loop()
        self._inboxes: dict[str, _Inbox] = {}
        self._host = host
        host.start(self._on_deltas)

    @property
    def outage(self) -> EngineError | None:
        """As `EngineHost.outage`."""
        return self._host.outage

    def stats(self) -> EngineStats:
        return self._host.stats

    def abort(self, request_id: str) -> None:
        """End a request now: its iterator gets a last delta with ABORT. Unknown ids are ignored."""
        inbox = self._inboxes.pop(request_id, None)
        if inbox is not None:
            inbox.put(Delta(request_id=request_id, finish_reason=FinishReason.ABORT))
            self._host.abort([request_id])

    def close(self) -> None:
        """Stop the engine; requests under way end with an error."""
        self._host.stop()

    async def generate(self, requests: Sequence[Request]) -> AsyncGenerator[list[Delta], None]:
        """The deltas of all `requests`, interleaved, until each has finished or was aborted: each
        time all that came since the last.

        Closing the iterator aborts what still runs. Raises ContextLengthError for a request that
        could never fit, and the engine's `outage`.
        """
        if (outage := self.outage) is not None:
            raise outage
        for request in requests:
            self._host.limits.check(request)
        inbox = _Inbox(self._asyncio_loop)
        unfinished = {request.id for request in requests}
        self._inboxes.update(dict.fromkeys(unfinished, inbox))
        self._host.submit(requests)
        try:
            while unfinished:
                deltas = await inbox.take()
                for delta in deltas:
                    if delta.finish_reason is not None:
                        unfinished.discard(delta.request_id)
                yield deltas
        finally:
            for request_id in unfinished:
                self._inboxes.pop(request_id, None)
            if unfinished:
                self._host.abort(sorted(unfinished))

    def _on_deltas(self, deltas: Sequence[Delta]) -> None:
        self._asyncio_loop.call_soon_threadsafe(self._dispatch, deltas)

    def _dispatch(self, deltas: Sequence[Delta]) -> None:
        for delta in deltas:
            inbox = self._inboxes.get(delta.request_id)
            if inbox is None:
                continue
            if delta.finish_reason is not None:  # an abort comes too late from here on
                del self._inboxes[delta.request_id]
            inbox.put(delta)


class _Inbox:
    """A queue with one reader, who takes all at once: waking it costs one callback."""

    __slots__ = ("_deltas", "_loop", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._deltas: list[Delta] = []
        self._waiting: asyncio.Future[None] | None = None

    def put(self, delta: Delta) -> None:
        self._deltas.append(delta)
        waiting = self._waiting
        if waiting is not None:
            self._waiting = None
            if not waiting.done():  # the reader may have been cancelled
                waiting.set_result(None)

    async def take(self) -> list[Delta]:
        """Waits for the first."""
        if not self._deltas:
            self._waiting = self._loop.create_future()
            await self._waiting
        deltas, self._deltas = self._deltas, []
        return deltas
