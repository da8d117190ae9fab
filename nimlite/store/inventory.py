"""What lies in the cache: how large, when last used, by whom held, and whether whole."""

import enum
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nimlite.errors import UserError
from nimlite.store.block_digest import BlockDigests, damage_of
from nimlite.store.digest import FileDigest, damaged_files
from nimlite.store.digest_receipts import forget
from nimlite.store.disk import writing_to
from nimlite.store.durable import REMOVED, discard
from nimlite.store.growth import size_of
from nimlite.store.lock import is_locked, try_file_lock, unused_directory, use_directory
from nimlite.store.receipt import RECEIPT_FILE, Receipt

log = logging.getLogger(__name__)

ENGINE_FILE = "engine.json"
PLANS_FILE = "plans.json"
"""Where an engine has plans of TensorRT."""
CONVERTED_FILE = "converted.json"
_UNREADABLE = "it can't be read: it is damaged, or of another version of nimlite"
BUILDING = ".building"
UNFINISHED_DOWNLOAD = ".part"
_UNFINISHED = (UNFINISHED_DOWNLOAD, BUILDING, REMOVED)


class Kind(enum.StrEnum):
    """A part of the cache; the values are its folders."""

    ARTIFACT = "artifacts"
    ENGINE = "engines"
    KERNELS = "kernels"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing that can be removed alone."""

    kind: Kind
    name: str
    """Unlike any other's of its kind. Of an engine: family/key."""
    path: Path
    size: int
    """Bytes."""
    last_use: float
    """UNIX seconds."""
    in_use: bool
    finished: bool
    """False: a download or build under way, or what a killed one left for the next to go on from
    or to remove."""

    @property
    def can_be_verified(self) -> bool:
        """Whether something states what its files should hold."""
        return self.finished and self.kind is not Kind.KERNELS

    @property
    def lock(self) -> Path:
        """Held while the entry is made."""
        if self.kind is Kind.KERNELS:
            return self.path.with_name("kernels.lock")
        return self.path.with_name(f"{_without_suffix(self.path)}.lock")


def entries(root: Path) -> list[Entry]:
    """All that lies in the cache `root`, by kind, then by name."""
    found = [entry for kind in Kind for path in _paths(root, kind) if (entry := _read(kind, path))]
    return sorted(found, key=lambda entry: (list(Kind).index(entry.kind), entry.name))


def find(found: Sequence[Entry], name: str) -> Entry:
    """The entry with that name, key, or unique beginning of either. Raises UserError for none and
    for several."""
    exact = [entry for entry in found if name in (entry.name, entry.path.name)]
    begun = [e for e in found if e.name.startswith(name) or e.path.name.startswith(name)]
    matches = exact or begun
    if len(matches) == 1:
        return matches[0]
    if not matches:
        raise UserError(
            f"Nothing in the cache is named {name!r}: `nimlite cache ls` shows what is."
        )
    names = ", ".join(entry.name for entry in matches)
    raise UserError(f"{name!r} names several things in the cache: {names}. Give more of the name.")


def remove(root: Path, entry: Entry) -> None:
    """Remove it from the cache `root`. Raises UserError for one that a process uses, and
    ArtifactError for a cache that can't be written."""
    with writing_to(root):
        if not try_remove(entry):
            raise UserError(
                f"{entry.name} is in use by a running process, and was left alone: end that process"
                " first."
            )
        forget(root / "digests", entry.path)


def try_remove(entry: Entry) -> bool:
    """Remove the entry unless a process makes or uses it; gives whether it was removed."""
    with try_file_lock(entry.lock) as is_free:
        if not is_free:
            return False
        if entry.path.is_file():
            entry.path.unlink()
            return True
        if not entry.path.exists():
            return True
        with unused_directory(entry.path) as is_unused:
            if not is_unused:
                return False
            discard(entry.path)
        if entry.kind is not Kind.KERNELS:
            remove_useless(entry.lock)
        return True


def remove_useless(lock: Path) -> None:
    """Remove a lock, which is held, unless what it is for is there, in whatever state."""
    if not any(lock.with_name(f"{lock.stem}{end}").exists() for end in ("", *_UNFINISHED)):
        lock.unlink()


def damage(entry: Entry) -> dict[str, str]:
    """The damaged files of one that can be verified, each with what is wrong. Every byte is
    read."""
    if entry.kind is Kind.ARTIFACT:
        receipt = Receipt.read(entry.path)
        return damaged_files(entry.path, receipt.files) if receipt else {RECEIPT_FILE: _UNREADABLE}
    try:
        sealed = json.loads((entry.path / ENGINE_FILE).read_text())
        files = {name: FileDigest(**digest) for name, digest in sealed["files"].items()}
        weights = {
            name: BlockDigests(one["size"], tuple(one["sha256"]), one["block_bytes"])
            for name, one in sealed["weights"].items()
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {ENGINE_FILE: _UNREADABLE}
    problems = {name: damage_of(entry.path / name, digests) for name, digests in weights.items()}
    damaged = {name: problem for name, problem in problems.items() if problem}
    return damaged_files(entry.path, files) | damaged


def use(path: Path, stamp: str) -> bool:
    """Keep the entry at `path` until this process ends, and note in the time of its file `stamp`
    that it was used now. False: it is gone."""
    if not use_directory(path):
        return False
    try:
        os.utime(path / stamp)
    except OSError as error:
        log.debug("%s can't be noted as used: %s", path, error)  # a read-only cache serves, too
    return True


def evict(root: Path, max_bytes: int) -> None:
    """Remove engines that no process uses, the longest unused first, until the cache `root` takes
    no more than `max_bytes`."""
    found = entries(root)
    total = sum(entry.size for entry in found)
    engines = [entry for entry in found if entry.kind is Kind.ENGINE]
    for entry in sorted(engines, key=lambda entry: entry.last_use):
        if total <= max_bytes:
            return
        try:
            if not try_remove(entry):
                continue
        except OSError as error:
            log.warning("The cache %s is over its %s bytes: %s.", root, f"{max_bytes:,}", error)
            return
        total -= entry.size
        log.info("Removed the engine %s, the longest unused: the cache was full.", entry.name)
    if total > max_bytes:
        log.warning(
            "The cache %s takes %s bytes, more than the %s that it may, and no engine in it is"
            " unused. `nimlite cache ls` shows what it holds, `nimlite cache rm` removes it.",
            root,
            f"{total:,}",
            f"{max_bytes:,}",
        )


def _paths(root: Path, kind: Kind) -> Iterator[Path]:
    depth = "*/*" if kind is Kind.ENGINE else "*"
    for path in (root / kind).glob(depth):
        if path.suffix != ".lock":
            yield path


def _read(kind: Kind, path: Path) -> Entry | None:
    """None where it was removed meanwhile."""
    is_library = path.suffix == ".so"
    entry = Entry(
        kind=kind,
        name=f"{path.parent.name}/{path.name}" if kind is Kind.ENGINE else path.name,
        path=path,
        size=size_of(path),
        last_use=0,
        in_use=False,
        finished=is_library if kind is Kind.KERNELS else path.suffix not in _UNFINISHED,
    )
    try:
        # A library that is loaded can be removed: its file lives as long as it is mapped.
        in_use = not is_library and (is_locked(entry.lock) or _is_used(path))
        return replace(entry, last_use=_last_use(path), in_use=in_use)
    except FileNotFoundError:
        return None


def _is_used(path: Path) -> bool:
    if not path.is_dir():
        return False
    with unused_directory(path) as is_unused:
        return not is_unused


def _last_use(path: Path) -> float:
    for stamp in (RECEIPT_FILE, ENGINE_FILE):
        if (path / stamp).is_file():
            return (path / stamp).stat().st_mtime
    stat = path.stat()
    return max(stat.st_mtime, stat.st_atime) if path.is_file() else stat.st_mtime


def _without_suffix(path: Path) -> str:
    while path.suffix in _UNFINISHED:  # an unfinished one that was being removed
        path = path.with_suffix("")
    return path.name
