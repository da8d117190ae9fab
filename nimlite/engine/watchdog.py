"""Notices what has stopped answering."""

import asyncio
from collections.abc import Callable

_ASKS = 4
"""Unanswered ones that are too many. They are counted, not timed: a machine that slept, the whole
process with it, has asked once."""


class Watchdog:
    """Asks again and again, and calls `on_silence` where no answer came for `patience_s` seconds;
    once. Runs in the event loop that it is made in."""

    def __init__(
        self, ask: Callable[[], None], on_silence: Callable[[], None], patience_s: float
    ) -> None:
        self._ask = ask
        self._on_silence = on_silence
        self._period_s = patience_s / _ASKS
        self._unanswered = 0
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(self._period_s, self._look)

    def heard(self) -> None:
        """An answer, or any other sign of life."""
        self._unanswered = 0

    def stop(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        if self._unanswered == _ASKS:
            self._on_silence()
            return
        self._unanswered += 1
        self._timer = self._loop.call_later(self._period_s, self._look)
        self._ask()
