"""Progress of long work (download, convert, load): who reports it knows nothing of who shows it."""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Task(Protocol):
    """One piece of work under way."""

    def advance(self, amount: float) -> None:
        """`amount` more of the total is done."""


class Progress(Protocol):
    """Where tasks are reported: a terminal, plain lines, the startup endpoint, or nowhere."""

    def task(
        self, title: str, total: float | None, unit: str = "B"
    ) -> AbstractContextManager[Task]:
        """Start a task; leaving the context ends it. `total` None: unknown."""


class _Silence:
    def advance(self, amount: float) -> None:
        pass

    def task(
        self, title: str, total: float | None, unit: str = "B"
    ) -> AbstractContextManager[Task]:
        return nullcontext(self)


SILENT: Progress = _Silence()
"""Progress that nobody reads."""
