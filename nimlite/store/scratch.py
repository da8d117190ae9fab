"""A cache directory for one process, where the real one can't be filled."""

import atexit
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from nimlite.store.lock import unused_directory, use_directory

_PREFIX = "nimlite-scratch-"


def scratch_directory() -> Path:
    """A new one among the temporary files, which is removed when this process ends; those of
    processes that were killed are removed now. Raises OSError where none can be made."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError), unused_directory(left) as is_unused:
            if is_unused:
                shutil.rmtree(left)
    scratch = Path(tempfile.mkdtemp(prefix=_PREFIX))
    use_directory(scratch)
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    return scratch
