"""Progress of a download that another program makes: the bytes that have appeared on the disk."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nimlite.observe.progress import Task

_INTERVAL_S = 0.2


@contextmanager
def reporting_growth(directory: Path, task: Task) -> Iterator[None]:
    """Advance `task` by what `directory` gains while the block runs."""
    done = threading.Event()

    def watch() -> None:
        seen = 0
        while True:
            finished = done.wait(_INTERVAL_S)
            size = _size(directory)
            if size > seen:
                task.advance(size - seen)
                seen = size
            if finished:
                return

    thread = threading.Thread(target=watch, name="download-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _size(directory: Path) -> int:
    """Bytes in the directory's files; those that vanish meanwhile don't count."""
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.stat(os.path.join(parent, name)).st_size
    return total
