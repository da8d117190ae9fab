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
            size = size_of(directory)
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


def size_of(path: Path) -> int:
    """Bytes of a file, or of those in a directory; what vanishes meanwhile doesn't count."""
    total = 0
    if path.is_file():
        with suppress(FileNotFoundError):
            return path.stat().st_size
    for parent, _, names in os.walk(path):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.stat(os.path.join(parent, name)).st_size
    return total
