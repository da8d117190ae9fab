import hashlib
import os
from pathlib import Path

import pytest

from nimlite.store import digest_receipts
from nimlite.store.digest import sha256_of
from nimlite.store.digest_receipts import DigestReceipts

CONTENT = b"x" * (2 << 20)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "model.safetensors"
    file.write_bytes(CONTENT)
    return file


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read."""
    reads: list[Path] = []

    def read(path: Path) -> str:
        reads.append(path)
        return sha256_of(path)

    monkeypatch.setattr(digest_receipts, "sha256_of", read)
    return reads


def test_a_large_file_is_read_once(tmp_path: Path, file: Path, reads: list[Path]) -> None:
    expected = hashlib.sha256(CONTENT).hexdigest()
    for _ in range(2):
        assert DigestReceipts(tmp_path / "digests").sha256(file) == expected
    (tmp_path / "later").mkdir()
    moved = file.rename(tmp_path / "later" / "model.safetensors")
    os.link(moved, tmp_path / "linked")  # a link counts as a change, and it is read again
    assert DigestReceipts(tmp_path / "digests").sha256(moved) == expected
    assert reads == [file, moved]


@pytest.mark.parametrize("length", [len(CONTENT), len(CONTENT) + 1])
def test_a_changed_file_is_read_again(
    tmp_path: Path, file: Path, reads: list[Path], length: int
) -> None:
    receipts = DigestReceipts(tmp_path / "digests")
    receipts.sha256(file)
    stat = file.stat()
    file.write_bytes(b"y" * length)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # even one that hides its change
    assert receipts.sha256(file) == hashlib.sha256(b"y" * length).hexdigest()
    assert len(reads) == 2


def test_small_files_leave_no_receipt(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert DigestReceipts(tmp_path / "digests").sha256(tmp_path / "config.json")
    assert not (tmp_path / "digests").exists()


def test_receipts_that_can_not_be_read_or_written(
    tmp_path: Path, file: Path, reads: list[Path]
) -> None:
    (tmp_path / "a file").touch()
    receipts = DigestReceipts(tmp_path / "a file")
    assert receipts.sha256(file) == receipts.sha256(file) and len(reads) == 2
    receipts = DigestReceipts(tmp_path / "digests")
    receipts.sha256(file)
    for receipt in (tmp_path / "digests").iterdir():
        receipt.write_text("[")
    assert receipts.sha256(file) == sha256_of(file) and len(reads) == 4
