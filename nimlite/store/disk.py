"""What a disk that refuses to be written tells the user."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nimlite.errors import ArtifactError


@contextmanager
def writing_to(root: Path) -> Iterator[None]:
    """Turn an OSError of the block into an ArtifactError that says what to do about the directory
    `root`."""
    try:
        yield
    except OSError as error:
        raise ArtifactError(_sentence(root, error)) from error


def refusal(root: Path) -> str | None:
    """Why nothing can be put into the cache directory `root`, as a sentence; None where it can."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            return None
    except OSError as error:
        if error.filename:  # not that of the file that was tried
            error.filename = str(root)
        return _sentence(root, error)


def is_empty(root: Path) -> bool:
    """Whether there is nothing in the cache directory `root`, or nobody may look."""
    try:
        return not any(root.iterdir())
    except OSError:
        return True


def free_bytes(path: Path) -> int:
    """Of the disk that `path` is on, or will be."""
    return shutil.disk_usage(_existing(path)).free


def require_space(directory: Path, num_bytes: int, what: str) -> None:
    """Raises ArtifactError where the disk of `directory` has no room for so many bytes more, rather
    than when it is full."""
    free = free_bytes(directory)
    if num_bytes > free:
        raise ArtifactError(
            f"{what} takes {_size(num_bytes)}, and the disk of {directory} has {_size(free)} free."
            " Free some space (`nimlite cache ls` shows what the cache holds, `nimlite cache rm`"
            " removes it), or set NIM_CACHE_PATH to a larger disk."
        )


def _sentence(root: Path, error: OSError) -> str:
    existing = _existing(root)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            f"The cache directory {root} can't be written ({error.strerror}:"
            f" {error.filename or root}). This process runs as uid {os.geteuid()}, and {existing}"
            f" belongs to uid {existing.stat().st_uid}. Make it writable, or set NIM_CACHE_PATH to"
            " a directory that is."
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = free_bytes(root)
        return (
            f"The disk of the cache directory {root} is full ({_size(free)} free). Free some"
            " space and start again (what was fetched is kept), or set NIM_CACHE_PATH to a larger"
            " disk."
        )
    return f"The cache directory {root} can't be used: {error}."


def _existing(path: Path) -> Path:
    """It, or the nearest folder above that is there."""
    return next(each for each in (path, *path.absolute().parents) if _exists(each))


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.0f} MB"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:
        return False
