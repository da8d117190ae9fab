"""A lock between processes that dies with the process that holds it."""

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold `path` exclusively; wait for another holder, and say so.

    The file stays behind: removing it would let a third process lock a new file of the same name.
    """
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("Waiting for another process that holds %s.", path)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def try_file_lock(path: Path) -> Iterator[bool]:
    """Hold `path` if nobody else does; gives whether it is held."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
