"""Digests of a large file block by block, so that several threads can make and check them, and a
block can be checked in the moment in which it is read."""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

BLOCK_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class BlockDigests:
    """A file's size in bytes, and the sha256 (lower-case hex) of each of its blocks in turn."""

    size: int
    sha256: tuple[str, ...]
    block_bytes: int = BLOCK_BYTES

    @property
    def num_blocks(self) -> int:
        return len(self.sha256)

    def mismatch(self, index: int, data: memoryview) -> str | None:
        """What is wrong with block `index`; None: nothing."""
        found = hashlib.sha256(data).hexdigest()
        if found == self.sha256[index]:
            return None
        return f"the sha256 of block {index} is {found} instead of {self.sha256[index]}"


def digest_blocks(path: Path) -> BlockDigests:
    """Read the file and give its digests."""
    return BlockDigests(path.stat().st_size, tuple(_each_block(path, BLOCK_BYTES)))


def block_sha256(path: Path) -> str:
    """One digest of the whole file, from those of its blocks: not what `sha256sum` prints, but made
    by all cores."""
    digest = hashlib.sha256()
    for block in digest_blocks(path).sha256:
        digest.update(bytes.fromhex(block))
    return digest.hexdigest()


def damage_of(path: Path, expected: BlockDigests, *, read: bool = True) -> str | None:
    """What is wrong with the file, None: nothing. Without `read` only its size is compared."""
    if not path.is_file():
        return "it is missing"
    if (size := path.stat().st_size) != expected.size:
        return f"it has {size:,} bytes instead of {expected.size:,}"
    found = _each_block(path, expected.block_bytes) if read else iter(expected.sha256)
    for index, (is_now, was) in enumerate(zip(found, expected.sha256, strict=True)):
        if is_now != was:
            return f"the sha256 of block {index} is {is_now} instead of {was}"
    return None


def _each_block(path: Path, block_bytes: int) -> Iterator[str]:
    size = path.stat().st_size
    with path.open("rb") as file, ThreadPoolExecutor(os.cpu_count()) as threads:

        def digest(begin: int) -> str:
            block = os.pread(file.fileno(), min(block_bytes, size - begin), begin)
            return hashlib.sha256(block).hexdigest()

        yield from threads.map(digest, range(0, size, block_bytes))
