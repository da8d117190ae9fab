"""Progress for people: bars on a terminal, plain lines where there is none, and several at once."""

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

from rich import progress as rich_progress
from rich.console import Console

from nimlite.observe.progress import Progress, Task

_LINES = 10
"""Lines of a plain progress between its first and its last, where it is quick."""
_SILENCE_S = 30
"""The longest that a slow one says nothing."""


def console_progress(console: Console) -> Progress:
    """Bars where somebody watches, lines where a file or a log collector does."""
    return BarProgress(console) if console.is_terminal else LineProgress(console.print)


class BarProgress:
    """A bar with amount, speed and remaining time; it stays when the task has ended."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextlib.contextmanager
    def task(self, title: str, total: float | None, unit: str = "B") -> Iterator[Task]:
        with rich_progress.Progress(*_columns(total, unit), console=self._console) as bars:
            bar = _Bar(bars, title, total)
            yield bar
            bar.finish()


def _columns(total: float | None, unit: str) -> list[rich_progress.ProgressColumn]:
    columns: list[rich_progress.ProgressColumn] = [
        rich_progress.SpinnerColumn(),
        rich_progress.TextColumn("{task.description}"),
    ]
    if unit == "B":
        columns += [
            rich_progress.BarColumn(),
            rich_progress.DownloadColumn(),
            rich_progress.TransferSpeedColumn(),
            rich_progress.TimeRemainingColumn(),
        ]
    elif total is not None:
        columns += [
            rich_progress.BarColumn(),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TextColumn(unit),
        ]
    return [*columns, rich_progress.TimeElapsedColumn()]


class _Bar:
    def __init__(self, bars: rich_progress.Progress, title: str, total: float | None) -> None:
        self._bars = bars
        self._id = bars.add_task(title, total=total)

    def advance(self, amount: float) -> None:
        self._bars.advance(self._id, amount)

    def finish(self) -> None:
        """Full, also where the total was unknown or the work ended early because it was done."""
        done = self._bars.tasks[0].completed
        self._bars.update(self._id, total=done or 1, completed=done or 1)


class LineProgress:
    """A line at the start, one at every tenth and in every half minute with the speed and the time
    that is left, and one at the end."""

    def __init__(
        self, write: Callable[[str], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write
        self._clock = clock

    @contextlib.contextmanager
    def task(self, title: str, total: float | None, unit: str = "B") -> Iterator[Task]:
        started = self._clock()
        self._write(f"{title} …" if total is None else f"{title}, {_amount(total, unit)} …")
        yield _Lines(self._write, self._clock, title, total, unit)
        self._write(f"{title}: done in {self._clock() - started:.1f} s")


class _Lines:
    def __init__(
        self,
        write: Callable[[str], object],
        clock: Callable[[], float],
        title: str,
        total: float | None,
        unit: str,
    ) -> None:
        self._write = write
        self._clock = clock
        self._title = title
        self._total = total
        self._unit = unit
        self._done = 0.0
        self._tenth = 0
        self._started = self._written = clock()

    def advance(self, amount: float) -> None:
        self._done += amount
        tenth = int(_LINES * self._done / self._total) if self._total else 0
        now = self._clock()
        if self._tenth < tenth < _LINES or now - self._written >= _SILENCE_S:
            self._tenth, self._written = tenth, now
            self._write(f"{self._title}: {self._state(now - self._started)}")

    def _state(self, seconds: float) -> str:
        """How far it is, how fast it goes, and what is left at that speed."""
        parts = []
        if self._total:
            parts.append(f"{min(100, 100 * self._done / self._total):.0f} %")
        else:
            parts.append(_amount(self._done, self._unit))
        if seconds and self._unit == "B":
            parts.append(f"{_amount(self._done / seconds, self._unit)}/s")
        if self._total and 0 < self._done < self._total:
            left_s = seconds * (self._total / self._done - 1)
            parts.append(f"{timedelta(seconds=round(left_s))} left")
        return ", ".join(parts)


def _amount(total: float, unit: str) -> str:
    return f"{total / 1e6:.1f} MB" if unit == "B" else f"{total:g} {unit}"


class TeeProgress:
    """Reports to several at once: the console and the server's startup endpoint."""

    def __init__(self, *targets: Progress) -> None:
        self._targets = targets

    @contextlib.contextmanager
    def task(self, title: str, total: float | None, unit: str = "B") -> Iterator[Task]:
        with contextlib.ExitStack() as stack:
            yield _Tee([stack.enter_context(t.task(title, total, unit)) for t in self._targets])


class _Tee:
    def __init__(self, tasks: list[Task]) -> None:
        self._tasks = tasks

    def advance(self, amount: float) -> None:
        for task in self._tasks:
            task.advance(amount)
