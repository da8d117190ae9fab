"""An engine that comes back: one that has ended is started again, by and by more patiently."""

import asyncio
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Sequence

from nimlite.background import in_daemon
from nimlite.engine.client import EngineHost, OnDeltas, OnEnd, stopped
from nimlite.engine.limits import RequestLimits
from nimlite.engine.request import EngineStats, Request
from nimlite.errors import EngineDeadError, EngineError, NimliteError, NotReadyError

_DELAYS_S = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
_STABLE_S = 60.0
_FIRST_GUESS_S = 5.0
"""What a start takes, before one was seen."""
_log = logging.getLogger(__name__)


class Supervisor:
    """An `EngineHost` over one that is replaced when it ends. What ran in it ends with its error;
    until the next one is there, requests are refused by an error that says so."""

    def __init__(
        self,
        host: EngineHost,
        restart: Callable[[], EngineHost],
        *,
        delays_s: Sequence[float] = _DELAYS_S,
        stable_s: float = _STABLE_S,
    ) -> None:
        """`restart` makes another host, in a thread of its own, and may raise. Before each try in a
        row there is a delay; behind the last the engine stays away. An engine that ran for
        `stable_s` seconds ends the row."""
        self._host: EngineHost | None = host
        self._restart = restart
        self._delays_s = delays_s
        self._stable_s = stable_s
        self._limits = host.limits
        self._last_stats = host.stats
        self._on_deltas: OnDeltas = lambda deltas: None
        self._loop: asyncio.AbstractEventLoop
        self._task: asyncio.Task[None] | None = None
        self._started_at = time.monotonic()
        self._start_took_s = _FIRST_GUESS_S
        self._reason = "The engine has ended."
        self._num_tries = 0
        self._num_restarts = 0
        self._has_stopped = False
        self._has_given_up = False

    @property
    def outage(self) -> EngineError | None:
        """NotReadyError where it will be back."""
        if self._has_stopped:
            return stopped()
        if self._host is not None and self._host.outage is None:
            return None
        if self._has_given_up:
            return EngineDeadError(f"{self._reason} The server must be restarted.")
        error = NotReadyError(f"{self._reason} It is being started again: ask again in a moment.")
        error.retry_after_s = math.ceil(self._start_took_s)
        return error

    @property
    def limits(self) -> RequestLimits:
        return self._limits

    @property
    def stats(self) -> EngineStats:
        """Counters go on over a restart."""
        if self._host is None:
            return self._last_stats
        return _sum(self._last_stats, self._host.stats, num_restarts=self._num_restarts)

    def start(self, on_deltas: OnDeltas, on_end: OnEnd | None = None) -> None:
        assert on_end is None, "it does not end"
        self._on_deltas = on_deltas
        self._loop = asyncio.get_running_loop()
        self._last_stats = EngineStats()
        assert self._host is not None
        self._adopt(self._host)

    def submit(self, requests: Sequence[Request]) -> None:
        assert self._host is not None, "the client looks at `outage` first"
        self._host.submit(requests)

    def abort(self, request_ids: Sequence[str]) -> None:
        if self._host is not None:
            self._host.abort(request_ids)

    def stop(self) -> None:
        self._has_stopped = True
        if self._task is not None:
            self._task.cancel()
        if self._host is not None:
            self._host.stop()

    def _adopt(self, host: EngineHost) -> None:
        self._host = host
        self._limits = host.limits
        self._started_at = time.monotonic()

        def tell(reason: str) -> None:
            self._loop.call_soon_threadsafe(self._ended, host, reason)

        host.start(self._on_deltas, tell)

    def _ended(self, host: EngineHost, reason: str) -> None:
        if self._has_stopped or host is not self._host:
            return
        self._last_stats = dataclasses.replace(
            self.stats, num_running=0, num_waiting=0, num_free_blocks=host.stats.num_blocks
        )
        self._host = None  # its memory is wanted
        self._reason = reason
        if time.monotonic() - self._started_at >= self._stable_s:
            self._num_tries = 0
        self._task = self._loop.create_task(self._bring_back())

    async def _bring_back(self) -> None:
        while self._num_tries < len(self._delays_s):
            delay_s = self._delays_s[self._num_tries]
            self._num_tries += 1
            _log.error("%s It is started again in %g s.", self._reason, delay_s)
            await asyncio.sleep(delay_s)
            began = time.monotonic()
            try:
                host = await in_daemon(self._restart_unless_stopped)
            except NimliteError as error:
                self._reason = f"The engine could not be started again: {error}"
            except Exception:  # noqa: BLE001 - the edge: nobody else would hear of it
                _log.exception("the engine could not be started again")
                self._reason = "The engine could not be started again."
            else:
                self._start_took_s = time.monotonic() - began
                self._num_restarts += 1
                self._adopt(host)
                _log.warning("the engine is back after %.1f s", self._start_took_s)
                return
        self._has_given_up = True
        _log.critical("%s It is not tried any more.", self._reason)

    def _restart_unless_stopped(self) -> EngineHost:
        host = self._restart()
        if self._has_stopped:
            host.stop()
        return host


def _sum(before: EngineStats, now: EngineStats, *, num_restarts: int) -> EngineStats:
    counters = {name: getattr(before, name) + getattr(now, name) for name in _COUNTERS}
    return dataclasses.replace(now, num_restarts=num_restarts, **counters)


_COUNTERS = (
    "num_preemptions",
    "num_prefix_queries",
    "num_prefix_hits",
    "num_steps",
    "num_prompt_tokens",
    "num_generated_tokens",
    "num_drafted_tokens",
    "num_accepted_tokens",
)
