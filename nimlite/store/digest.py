"""Digests of files: how a damaged file is told from a whole one."""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class FileDigest:
    """Size in bytes and sha256 (lower-case hex) of a file."""

    size: int
    sha256: str


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes, lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


Sha256 = Callable[[Path], str]
"""`sha256_of`, or what remembers it."""


def digest_files(
    directory: Path, names: Iterable[str], sha256: Sha256 = sha256_of
) -> dict[str, FileDigest]:
    """Digests of files in `directory`. Large models have many files, and hashlib lets go of the
    GIL: in parallel."""
    ordered = sorted(names)
    paths = [directory / name for name in ordered]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests = list(pool.map(sha256, paths))
    return {
        name: FileDigest(path.stat().st_size, digest)
        for name, path, digest in zip(ordered, paths, digests, strict=True)
    }


def damaged_files(
    directory: Path, expected: Mapping[str, FileDigest], sha256: Sha256 = sha256_of
) -> dict[str, str]:
    """The files that are not as `expected`, each with what is wrong. Sizes are compared before
    anything is read."""
    damage: dict[str, str] = {}
    for name, digest in expected.items():
        path = directory / name
        if not path.is_file():
            damage[name] = "it is missing"
        elif (size := path.stat().st_size) != digest.size:
            damage[name] = f"it has {size:,} bytes instead of {digest.size:,}"
    found = digest_files(directory, expected.keys() - damage.keys(), sha256)
    for name, digest in found.items():
        if digest.sha256 != expected[name].sha256:
            damage[name] = f"its sha256 is {digest.sha256} instead of {expected[name].sha256}"
    return damage
