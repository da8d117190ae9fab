"""Locks between processes, which die with the process that holds them."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

log = logging.getLogger(__name__)


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold `path` exclusively; wait for another holder, and say so. The file stays behind."""
    file = try_lock(path)
    if file is None:
        log.info("Waiting for another process that holds %s.", path)
        file = _locked(path, fcntl.LOCK_EX)
    with file:
        yield


@contextmanager
def try_file_lock(path: Path) -> Iterator[bool]:
    """Hold `path` if nobody else does; gives whether it is held."""
    file = try_lock(path)
    if file is None:
        yield False
        return
    with file:
        yield True


def try_lock(path: Path) -> IO[str] | None:
    """`path`, opened and held exclusively until it is closed. None: another holds it."""
    try:
        return _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None


def _locked(path: Path, operation: int) -> IO[str]:
    while True:
        file = path.open("a")
        try:
            fcntl.flock(file, operation)
        except OSError:
            file.close()
            raise
        if _is_same(file.fileno(), path):
            return file
        file.close()  # removed by its last holder: a third process may have locked a new one


def use_directory(path: Path) -> bool:
    """Keep `path` from being removed, by whoever asks first, until this process ends. False: it is
    gone. Shared by any number of processes, and only read: a read-only file system does."""
    try:
        directory = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    with suppress(OSError):  # a file system without locks counts all as in use
        fcntl.flock(directory, fcntl.LOCK_SH)
    return _is_same(directory, path)


@contextmanager
def unused_directory(path: Path) -> Iterator[bool]:
    """Hold `path` if no process uses it; gives whether it is held."""
    directory = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(directory)


def is_locked(path: Path) -> bool:
    """Whether a process holds `path` exclusively. Changes nothing."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
