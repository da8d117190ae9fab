import hashlib
import os
from pathlib import Path

import pytest

from nimlite.store.block_digest import block_sha256
from nimlite.store.cache import Store
from nimlite.store.digest import sha256_of
from nimlite.store.digest_receipts import DigestReceipts

CONTENT = b"x" * (2 << 20)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "model.safetensors"
    file.write_bytes(CONTENT)
    return file


class Reader:
    """Counts the files that it reads."""

    def __init__(self) -> None:
        self.files: list[Path] = []

    def __call__(self, path: Path) -> str:
        self.files.append(path)
        return sha256_of(path)


@pytest.fixture
def read() -> Reader:
    return Reader()


def test_a_large_file_is_read_once(tmp_path: Path, file: Path, read: Reader) -> None:
    expected = hashlib.sha256(CONTENT).hexdigest()
    for _ in range(2):
        assert DigestReceipts(tmp_path / "digests", read).sha256(file) == expected
    (tmp_path / "later").mkdir()
    moved = file.rename(tmp_path / "later" / "model.safetensors")
    os.link(moved, tmp_path / "linked")  # a link counts as a change, and it is read again
    assert DigestReceipts(tmp_path / "digests", read).sha256(moved) == expected
    assert read.files == [file, moved]


@pytest.mark.parametrize("length", [len(CONTENT), len(CONTENT) + 1])
def test_a_changed_file_is_read_again(
    tmp_path: Path, file: Path, read: Reader, length: int
) -> None:
    receipts = DigestReceipts(tmp_path / "digests", read)
    receipts.sha256(file)
    stat = file.stat()
    file.write_bytes(b"y" * length)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # even one that hides its change
    assert receipts.sha256(file) == hashlib.sha256(b"y" * length).hexdigest()
    assert len(read.files) == 2


def test_small_files_leave_no_receipt(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert DigestReceipts(tmp_path / "digests").sha256(tmp_path / "config.json")
    assert not (tmp_path / "digests").exists()


def test_receipts_that_can_not_be_read_or_written(tmp_path: Path, file: Path, read: Reader) -> None:
    (tmp_path / "a file").touch()
    receipts = DigestReceipts(tmp_path / "a file", read)
    assert receipts.sha256(file) == receipts.sha256(file) and len(read.files) == 2
    receipts = DigestReceipts(tmp_path / "digests", read)
    receipts.sha256(file)
    for receipt in (tmp_path / "digests").iterdir():
        receipt.write_text("[")
    assert receipts.sha256(file) == sha256_of(file) and len(read.files) == 4


def test_digests_of_another_kind(tmp_path: Path, file: Path) -> None:
    store = Store(tmp_path / "cache")
    assert store.sha256(file) == sha256_of(file) != store.block_sha256(file) == block_sha256(file)
    assert store.sha256(file) == sha256_of(file)
    (tmp_path / "other").write_bytes(CONTENT[:-1] + b"y")
    assert block_sha256(tmp_path / "other") != block_sha256(file)
