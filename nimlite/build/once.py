"""A directory that is made once: under a lock, in a temporary one, renamed into place."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from nimlite.observe.progress import Progress
from nimlite.store.disk import writing_to
from nimlite.store.durable import publish
from nimlite.store.inventory import BUILDING
from nimlite.store.turn import turn

T = TypeVar("T")


def made_once(
    home: Path,
    progress: Progress,
    existing: Callable[[], T | None],
    make: Callable[[Path, Progress], T],
) -> T:
    """What `existing` finds in `home`, or what `make` fills a temporary directory with, which then
    replaces `home`.

    Raises ArtifactError for a disk that refuses, and what both raise. Nothing half-made is left.
    """
    if (found := existing()) is not None:
        return found
    with writing_to(home.parent):
        home.parent.mkdir(parents=True, exist_ok=True)
        with turn(home.with_name(f"{home.name}.lock"), progress) as shown:
            # Another process may have made it while this one waited for the lock.
            if (found := existing()) is not None:
                return found
            work = home.with_name(f"{home.name}{BUILDING}")
            shutil.rmtree(work, ignore_errors=True)
            try:
                work.mkdir()
                made = make(work, shown)
                publish(work, home)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return made
