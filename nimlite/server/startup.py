"""The phases of the start: reported by the loading code, read by the health endpoints."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Phase:
    """One piece of work of the start, such as a download. Also the `Task` handed to who does it."""

    title: str
    total: float | None
    unit: str
    done: float = 0.0
    state: str = "running"
    started: float = field(default_factory=time.monotonic)
    ended: float | None = None

    def advance(self, amount: float) -> None:
        self.done += amount

    @property
    def percent(self) -> float | None:
        """0 to 100; None where the total is unknown."""
        if self.state == "done":
            return 100.0
        return min(100.0, 100.0 * self.done / self.total) if self.total else None

    @property
    def seconds_left(self) -> float | None:
        """At the speed until now; None where that can't be told."""
        if self.state != "running" or not self.total or not self.done:
            return None
        return max(0.0, (time.monotonic() - self.started) * (self.total / self.done - 1))

    def as_json(self) -> dict[str, Any]:
        return {
            "phase": self.title,
            "state": self.state,
            "done": self.done,
            "total": self.total,
            "unit": self.unit,
            "percent": self.percent,
            "seconds": round((self.ended or time.monotonic()) - self.started, 3),
            "seconds_left": self.seconds_left and round(self.seconds_left, 1),
        }


class Startup:
    """A `Progress` that remembers. Written by the loading thread, read by the event loop."""

    def __init__(self) -> None:
        self.phases: list[Phase] = []
        self.failure: str | None = None
        """Why the start ended without a model."""

    @contextlib.contextmanager
    def task(self, title: str, total: float | None, unit: str = "B") -> Iterator[Phase]:
        phase = Phase(title, total, unit)
        self.phases.append(phase)
        try:
            yield phase
        except BaseException:
            phase.state = "failed"
            raise
        else:
            phase.state = "done"
        finally:
            phase.ended = time.monotonic()

    @property
    def current(self) -> Phase | None:
        """The innermost phase under way, else the latest that ended."""
        running = [phase for phase in self.phases if phase.state == "running"]
        phases = running or self.phases
        return phases[-1] if phases else None

    def describe(self) -> str:
        """A sentence for whoever asks too early."""
        if self.failure is not None:
            return f"The server could not start: {self.failure}"
        if self.current is None:
            return "The server is starting."
        percent = self.current.percent
        amount = "" if percent is None else f" ({percent:.0f} %)"
        return f"The server is starting: {self.current.title}{amount}."
