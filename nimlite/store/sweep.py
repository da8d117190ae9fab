"""What processes that were killed left in the cache and nobody goes on from: removed."""

import logging
from pathlib import Path

from nimlite.store.digest_receipts import forget_missing
from nimlite.store.inventory import UNFINISHED_DOWNLOAD, entries, remove_useless, try_remove
from nimlite.store.lock import try_file_lock

log = logging.getLogger(__name__)


def sweep(root: Path) -> None:
    """Remove from the cache `root` unfinished builds, what was being removed, and locks and digests
    of what is gone. A download that broke off stays, for the next one goes on from it; and so does
    all in a cache that can only be read."""
    try:
        for entry in entries(root):
            is_useless = not entry.finished and entry.path.suffix != UNFINISHED_DOWNLOAD
            if is_useless and try_remove(entry):
                log.info("Removed %s, left by a process that was killed.", entry.path)
        for lock in (*root.glob("artifacts/*.lock"), *root.glob("engines/*/*.lock")):
            with try_file_lock(lock) as is_free:
                if is_free:
                    remove_useless(lock)
        forget_missing(root / "digests")
    except OSError as error:
        log.debug("The cache %s can't be swept: %s", root, error)
