"""Directories that appear under their names, and vanish, whole or not at all, even where a process
is killed or the power fails."""

import errno
import os
import shutil
from pathlib import Path

REMOVED = ".removed"
"""Ends the name of a directory that is being removed."""
_NOT_SUPPORTED = (errno.EINVAL, errno.ENOTSUP)


def publish(stage: Path, home: Path) -> None:
    """Rename the directory `stage` to `home` when all that is in it has reached the disk; what was
    there before is removed. Raises OSError for a disk that refuses."""
    for parent, _, names in os.walk(stage, topdown=False):
        for name in names:
            _sync(Path(parent, name))
        _sync(Path(parent))
    discard(home)
    os.rename(stage, home)
    _sync(home.parent)


def discard(path: Path) -> None:
    """Remove a directory so that no moment shows a part of it under its name, and what an earlier
    attempt left of it."""
    removed = path if path.suffix == REMOVED else path.with_name(f"{path.name}{REMOVED}")
    if path.exists() and path != removed:
        shutil.rmtree(removed, ignore_errors=True)
        path.rename(removed)
    if removed.exists():
        shutil.rmtree(removed)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:  # some network file systems can't, of directories
            raise
    finally:
        os.close(descriptor)
