"""Work that is killed at every step of it: one on the file system below a folder, or of progress.

It runs in forked children, so it belongs into a script of its own, which has no thread yet.
"""

import itertools
import logging
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nimlite.observe.progress import SILENT, Progress

Work = Callable[[Path, Progress], object]
"""What is done in a cache."""
_STEPS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.utime", "os.truncate"}


def kill_everywhere(work: Work, root: Path, left: Path, every: int = 1) -> None:
    """Do `work` in the caches root/0, root/1, …, which begin as copies of `left`, and kill it at
    its step 0, 1, … or only at one of so many as `every`. Then do it once more to its end: at each
    other step by a process that came before the kill, and waits.
    """
    for number in itertools.count():
        cache = root / str(number)
        if left.exists():
            shutil.copytree(left, cache)
        step = number * every
        first = _Child(lambda tell, c=cache, s=step: work(c, _Steps(c, s, tell)))
        if not first.comes_to_a_point():
            first.finish()
            shutil.rmtree(cache)
            return
        waits = number % 2 == 1
        if not waits:
            first.kill()
        second = _Child(lambda tell, c=cache: (_tell_of_waiting(tell), work(c, SILENT)))
        if waits:
            second.comes_to_a_point()
            first.kill()
        second.finish()
    raise AssertionError("there is no end")


def _tell_of_waiting(tell: Callable[[], object]) -> None:
    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "Another process is at this work" in record.getMessage():
                tell()

    logging.basicConfig(level=logging.INFO, handlers=[Handler()])


class _Child:
    """Runs `work` in a process of its own; what `work` is given tells this one that it came to a
    point."""

    def __init__(self, work: Callable[[Callable[[], object]], object]) -> None:
        self._points, tell = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            status = 1
            try:
                work(lambda: os.write(tell, b"."))
                status = 0
            except BaseException:  # noqa: BLE001 - the edge of a process
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(tell)

    def comes_to_a_point(self) -> bool:
        """Wait for it. False: it ended before."""
        return os.read(self._points, 1) == b"."

    def kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        assert self._end() == -signal.SIGKILL

    def finish(self) -> None:
        """Wait for its end, which must be a good one."""
        assert self._end() == 0

    def _end(self) -> int:
        os.close(self._points)
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])


class _Steps:
    """A `Progress` that stops the process for good at step `last`."""

    def __init__(self, root: Path, last: int, tell: Callable[[], object]) -> None:
        self._root = str(root)
        self._last = last
        self._tell = tell
        self._numbers = itertools.count()
        sys.addaudithook(self._audit)

    def advance(self, amount: float = 0) -> None:
        if next(self._numbers) == self._last:
            self._tell()
            while True:
                signal.pause()

    @contextmanager
    def task(self, title: str, total: float | None, unit: str = "B") -> Iterator["_Steps"]:
        self.advance()
        yield self
        self.advance()

    def _audit(self, event: str, arguments: tuple[object, ...]) -> None:
        # rmtree names what it removes within a folder's descriptor: it is ours.
        if event in _STEPS and (
            str(arguments[0]).startswith(self._root)
            or (event in ("os.remove", "os.rmdir") and arguments[1] != -1)
        ):
            self.advance()
