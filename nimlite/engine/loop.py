"""The engine's own thread: take requests in, step, hand the deltas out, until told to stop."""

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from nimlite.engine.client import OnDeltas, OnEnd, stopped
from nimlite.engine.limits import RequestLimits
from nimlite.engine.request import Delta, EngineStats, FinishReason, Grammar, Request
from nimlite.errors import EngineError, RequestError

if TYPE_CHECKING:
    from nimlite.engine.engine import Engine

logger = logging.getLogger(__name__)


class EngineLoop:
    """Runs an `Engine` in a thread. `submit`, `abort` and `stop` may be called from any thread."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self._on_deltas: OnDeltas = lambda deltas: None
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._live: set[str] = set()
        self._error: str | None = None
        """Why the loop has ended: the answer to whoever comes too late."""
        self._grammar_thread = ThreadPoolExecutor(1, thread_name_prefix="grammars")
        self._thread: threading.Thread | None = None
        self.stats: EngineStats = engine.stats

    @property
    def limits(self) -> RequestLimits:
        return self._engine.limits

    @property
    def is_alive(self) -> bool:
        """From the start until the end."""
        return self._error is None and self._thread is not None

    @property
    def outage(self) -> EngineError | None:
        return None if self.is_alive else stopped()

    def start(self, on_deltas: OnDeltas, on_end: OnEnd | None = None) -> None:
        """`on_deltas` is called in the engine's thread, once a step and whenever `stats` change."""
        self._thread = threading.Thread(
            target=self.run, args=(on_deltas, on_end), name="engine", daemon=True
        )
        self._thread.start()

    def submit(self, requests: Sequence[Request]) -> None:
        """Requests of one group must come together. Once the loop has ended, each gets a delta
        with `error`."""
        self._inbox.put(lambda: self._take(requests))
        # The thread sets the error before it looks into the inbox for the last time: if that was
        # before our message came, we see it here.
        if self._error is not None:
            self._empty_inbox()

    def abort(self, request_ids: Sequence[str]) -> None:
        """Unknown or finished ids are ignored: the client can't know what the engine just ended."""
        self._inbox.put(lambda: self._abort(request_ids))

    def ping(self) -> None:
        """Report, deltas or not, once the step in flight has ended."""
        self._inbox.put(lambda: self._report([]))

    def stop(self) -> None:
        """End after the step in flight; what still runs gets a delta with `error`."""
        self._inbox.put(None)
        if self._thread is not None:
            self._thread.join()

    def fail(self, reason: str) -> None:
        """End as if a step had failed."""
        self._inbox.put(lambda: self._fail(reason))

    def run(self, on_deltas: OnDeltas, on_end: OnEnd | None = None) -> None:
        """The loop itself, for whoever has a thread for it: returns once stopped or failed."""
        self._on_deltas = on_deltas
        error, has_failed = "The server is shutting down.", False
        try:
            while self._take_messages():
                if self._engine.has_work:
                    self._report(self._engine.step())
        except Exception as failure:
            # The edge of the thread: nobody above could answer the requests.
            logger.exception("the engine loop ended")
            error, has_failed = f"The engine stopped: {failure}", True
        self._error = error
        self._grammar_thread.shutdown(wait=False)
        self._report([_failed(request_id, error) for request_id in sorted(self._live)])
        self._empty_inbox()
        if has_failed and on_end is not None:
            on_end(f"{error}.")

    def _take_messages(self) -> bool:
        """Apply what has arrived, waiting for it where there is nothing to do. False: stop."""
        while not self._inbox.empty() or not self._engine.has_work:
            message = self._inbox.get()
            if message is None:
                return False
            message()
        return True

    def _empty_inbox(self) -> None:
        """After the end. Two threads may do so at once: each message is taken by one of them."""
        with contextlib.suppress(queue.Empty):
            while True:
                message = self._inbox.get_nowait()
                if message is not None:
                    message()

    def _fail(self, reason: str) -> None:
        if self._error is None:
            raise EngineError(reason)

    def _take(self, requests: Sequence[Request]) -> None:
        if self._error is not None:
            self._report([_failed(request.id, self._error) for request in requests])
            return
        self._live.update(request.id for request in requests)
        unknown = {
            r.grammar for r in requests if r.grammar and not self._engine.grammars.knows(r.grammar)
        }
        if unknown:
            self._grammar_thread.submit(self._compile, unknown, requests)
        else:
            self._add(requests)

    def _compile(self, grammars: Iterable[Grammar], requests: Sequence[Request]) -> None:
        """In a thread of its own, for it may take longer than many steps."""
        try:
            for grammar in grammars:
                with contextlib.suppress(RequestError):  # `_add` will hear of it, too
                    self._engine.grammars.check(grammar)
        finally:
            self._inbox.put(lambda: self._add(requests))

    def _add(self, requests: Sequence[Request]) -> None:
        for request in requests:
            if request.id not in self._live:  # aborted meanwhile
                continue
            try:
                self._engine.add(request)
            except RequestError as error:
                refusal = FinishReason.REFUSED
                self._report([Delta(request.id, finish_reason=refusal, error=str(error))])

    def _abort(self, request_ids: Sequence[str]) -> None:
        for request_id in request_ids:
            if request_id in self._live:
                self._live.discard(request_id)
                self._engine.abort(request_id)
        self._report([])

    def _report(self, deltas: Sequence[Delta]) -> None:
        self.stats = self._engine.stats
        for delta in deltas:
            if delta.finish_reason is not None:
                self._live.discard(delta.request_id)
        self._on_deltas(deltas)


def _failed(request_id: str, error: str) -> Delta:
    return Delta(request_id=request_id, finish_reason=FinishReason.ERROR, error=error)
