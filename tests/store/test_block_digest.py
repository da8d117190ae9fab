import hashlib
from pathlib import Path

import pytest

from nimlite.store.block_digest import BLOCK_BYTES, BlockDigests, damage_of, digest_blocks

CONTENT = bytes(range(256)) * (2 * BLOCK_BYTES // 256) + b"the rest"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "weights"
    file.write_bytes(CONTENT)
    return file


def test_every_block_has_its_sha256(file: Path) -> None:
    digests = digest_blocks(file)
    assert (digests.size, digests.num_blocks) == (len(CONTENT), 3)
    assert digests.sha256[2] == hashlib.sha256(b"the rest").hexdigest()
    assert digests.sha256[0] == digests.sha256[1]
    assert damage_of(file, digests) is None


def test_damage_is_found_and_placed(file: Path, tmp_path: Path) -> None:
    digests = digest_blocks(file)
    damaged = bytearray(CONTENT)
    damaged[BLOCK_BYTES + 5] ^= 1
    file.write_bytes(damaged)
    problem = damage_of(file, digests)
    assert problem is not None and problem.startswith("the sha256 of block 1 is ")
    assert damage_of(file, digests, read=False) is None
    file.write_bytes(CONTENT[:-1])
    assert (
        damage_of(file, digests, read=False) == f"it has {len(CONTENT) - 1:,} bytes instead of"
        f" {len(CONTENT):,}"
    )
    assert damage_of(tmp_path / "nothing", digests) == "it is missing"


def test_an_empty_file_has_no_blocks(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    digests = digest_blocks(tmp_path / "empty")
    assert digests == BlockDigests(0, ())
    assert damage_of(tmp_path / "empty", digests) is None
