"""Digests of large files, remembered for as long as the files are not touched.

A file is known by its device and inode; that its size or the time of its last change differs makes
it another one. A bit that flips on the disk changes neither: reading everything, as
`digest.sha256_of` does, finds that too.
"""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

from nimlite.store.digest import Sha256, sha256_of

_LARGE = 1 << 20
"""Smaller files are read faster than they are looked up."""
_DOWNLOAD = ".part/"
"""Ends the folder's name in which a file lay while it was downloaded."""


class DigestReceipts:
    """A directory with a small file for each digest. Several processes may share it."""

    def __init__(self, directory: Path, compute: Sha256 = sha256_of) -> None:
        self._directory = directory
        self._compute = compute

    def sha256(self, path: Path) -> str:
        """What `compute` gives for the file. One that was just changed is read again."""
        stat = path.stat()
        if stat.st_size < _LARGE:
            return self._compute(path)
        receipt = self._directory / f"{stat.st_dev:x}-{stat.st_ino:x}.json"
        state = {
            "size": stat.st_size,
            "modified_ns": stat.st_mtime_ns,
            "changed_ns": stat.st_ctime_ns,
        }
        with contextlib.suppress(OSError, ValueError):
            known = json.loads(receipt.read_text())
            if {name: known.get(name) for name in state} == state:
                return str(known["sha256"])
        digest = self._compute(path)
        self._write(receipt, {**state, "sha256": digest, "path": str(path)})
        return digest

    def _write(self, receipt: Path, content: dict[str, object]) -> None:
        """A directory that can't be written remembers nothing, and a receipt that was written in
        part can't be read: the file is."""
        with contextlib.suppress(OSError):
            self._directory.mkdir(parents=True, exist_ok=True)
            receipt.write_text(json.dumps(content, indent=1))


def forget(directory: Path, gone: Path) -> None:
    """Remove the receipts in `directory` and below of the files that were in the directory `gone`,
    or were downloaded for it, and those that can't be read."""
    _remove(directory, lambda path: path.startswith((f"{gone}/", f"{gone}{_DOWNLOAD}")))


def forget_missing(directory: Path) -> None:
    """Likewise of the files that are not there any more."""
    _remove(directory, lambda path: not Path(path.replace(_DOWNLOAD, "/")).exists())


def _remove(directory: Path, is_gone: Callable[[str], bool]) -> None:
    for receipt in directory.rglob("*.json"):
        try:
            useless = is_gone(json.loads(receipt.read_text())["path"])
        except (ValueError, KeyError, TypeError, OSError):
            useless = True
        if useless:
            receipt.unlink(missing_ok=True)
