"""Work that one process does while others wait and see how far it is.

Who works holds a lock, and writes its newest task into the lock's file, as JSON:

{"number": 3, "title": "Convert the weights", "done": 1e8, "total": 5e8, "unit": "B"}
"""

import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from nimlite.observe.progress import Progress, Task
from nimlite.store.lock import try_lock

log = logging.getLogger(__name__)

_INTERVAL_S = 0.1
"""Between two looks at a lock, and between two reports of one task."""


@contextmanager
def turn(lock: Path, progress: Progress) -> Iterator[Progress]:
    """Hold `lock`. What the progress that it gives is told, `progress` and all processes that wait
    here are told, too. If the one at work dies, the next takes its turn."""
    with try_lock(lock) or _waited_for(lock, progress) as file:
        reported = _Reported(progress, file.fileno())
        reported.write()  # of one that died here, something may be left
        yield reported


def _waited_for(lock: Path, progress: Progress) -> IO[str]:
    """The lock's file, once it is held; until then `progress` is told what its holder does."""
    log.info("Another process is at this work and holds %s: waiting for it.", lock)
    with ExitStack() as shown:
        task, seen = None, _Report(number=0, title="", total=None, unit="")
        while True:
            if file := try_lock(lock):
                return file
            if report := _read(lock):
                if report.number != seen.number:
                    shown.close()
                    title = f"{report.title} (in another process)"
                    task = shown.enter_context(progress.task(title, report.total, report.unit))
                    seen = _Report(**{**asdict(report), "done": 0.0})
                if task is not None and report.done > seen.done:
                    task.advance(report.done - seen.done)
                    seen = report
            time.sleep(_INTERVAL_S)


@dataclass(slots=True, kw_only=True)
class _Report:
    """How far a task is."""

    number: int
    title: str
    total: float | None
    unit: str
    done: float = 0.0


def _read(lock: Path) -> _Report | None:
    """None: there is nothing yet, or it is just being written."""
    with suppress(OSError, ValueError, TypeError):
        return _Report(**json.loads(lock.read_text()))
    return None


class _Reported:
    """A `Progress` that others can read in the lock's file. Threads may share it."""

    def __init__(self, inner: Progress, file: int) -> None:
        self._inner = inner
        self._file = file
        self._mutex = threading.Lock()
        self._running: list[_Report] = []
        self._number = 0

    @contextmanager
    def task(self, title: str, total: float | None, unit: str = "B") -> Iterator[Task]:
        with self._inner.task(title, total, unit) as task:
            self._number += 1
            report = _Report(number=self._number, title=title, total=total, unit=unit)
            self._running.append(report)
            self.write()
            try:
                yield _ReportedTask(task, report, self)
            finally:
                self._running.remove(report)
                self.write()

    def write(self) -> None:
        """Let be read how far the newest task is, if there is one."""
        with self._mutex, suppress(OSError):  # a full disk is told by the work itself
            newest = self._running[-1:]
            os.truncate(self._file, 0)
            os.write(self._file, b"".join(json.dumps(asdict(r)).encode() for r in newest))


class _ReportedTask:
    def __init__(self, inner: Task, report: _Report, reported: _Reported) -> None:
        self._inner = inner
        self._report = report
        self._reported = reported
        self._written = time.monotonic()

    def advance(self, amount: float) -> None:
        self._inner.advance(amount)
        self._report.done += amount
        if time.monotonic() - self._written >= _INTERVAL_S:
            self._written = time.monotonic()
            self._reported.write()
