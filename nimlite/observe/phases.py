"""How long each part of a start took: progress that is also written down."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from nimlite.observe.progress import Progress, Task


@dataclass(frozen=True, slots=True)
class Phase:
    """One task, in seconds since the start."""

    title: str
    begin: float
    end: float


class PhaseLog:
    """A `Progress` that remembers when each task began and ended. Tasks may overlap."""

    def __init__(
        self, inner: Progress, started: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`started`: on the `clock`."""
        self._inner = inner
        self._started = started
        self._clock = clock
        self._phases: list[Phase] = []

    @contextlib.contextmanager
    def task(self, title: str, total: float | None, unit: str = "B") -> Iterator[Task]:
        begin = self._now()
        with self._inner.task(title, total, unit) as task:
            yield task
        self._phases.append(Phase(title, begin, self._now()))

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Those that have ended, in the order in which they began."""
        return tuple(sorted(self._phases, key=lambda phase: phase.begin))

    def table(self) -> str:
        """A line a phase: when it began, and how long it took."""
        rows = [f"{p.begin:8.2f} s {p.end - p.begin:8.2f} s  {p.title}" for p in self.phases]
        return "\n".join([f"{'at':>10} {'took':>10}", *rows, f"{self._now():8.2f} s  ready"])

    def _now(self) -> float:
        return self._clock() - self._started
