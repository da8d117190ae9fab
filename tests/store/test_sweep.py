import json
import logging
import shutil
from pathlib import Path

import pytest
from test_inventory import make_artifact, make_engine

from nimlite.store.digest_receipts import DigestReceipts
from nimlite.store.inventory import entries
from nimlite.store.lock import file_lock
from nimlite.store.sweep import sweep


def test_what_nobody_goes_on_from_is_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_artifact(tmp_path)
    engine = make_engine(tmp_path, "abcd", used=1)
    kept = {path for path in tmp_path.rglob("*") if path.is_file()}
    useless = [
        engine.with_name("abcd.building"),
        engine.with_name("ef.building"),
        engine.with_name("01.building.removed"),
        tmp_path / "artifacts" / "old.removed",
        tmp_path / "kernels" / "tmp1234",
    ]
    broken_off = tmp_path / "artifacts" / "other.part"
    for folder in (*useless, broken_off):
        folder.mkdir(parents=True)
        (folder / "file").write_text("half")
    for lock in (engine.with_name("01.lock"), tmp_path / "artifacts" / "older.lock"):
        lock.touch()
    with caplog.at_level(logging.INFO):
        sweep(tmp_path)
    kept |= {broken_off / "file", tmp_path / "kernels" / "kernels.lock"}
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == kept
    assert f"Removed {useless[0]}, left by a process that was killed." in caplog.text


def test_what_is_being_made_stays(tmp_path: Path) -> None:
    (tmp_path / "engines" / "tiny" / "ab.building").mkdir(parents=True)
    locks = [tmp_path / "engines" / "tiny" / name for name in ("ab.lock", "cd.lock")]
    with file_lock(locks[0]), file_lock(locks[1]):
        sweep(tmp_path)
        assert len(entries(tmp_path)) == 1 and all(lock.exists() for lock in locks)
    sweep(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_digests_of_what_is_gone_are_forgotten(tmp_path: Path) -> None:
    receipts = DigestReceipts(tmp_path / "digests")
    stage = tmp_path / "artifacts" / "tiny.part"
    stage.mkdir(parents=True)
    for name in ("weights", "more"):
        (stage / name).write_bytes(bytes(2 << 20))
        receipts.sha256(stage / name)
    home = stage.rename(stage.with_suffix(""))
    sweep(tmp_path)
    assert len(list((tmp_path / "digests").iterdir())) == 2
    (home / "more").unlink()
    sweep(tmp_path)
    (receipt,) = (tmp_path / "digests").iterdir()
    assert json.loads(receipt.read_text())["path"] == str(stage / "weights")
    shutil.rmtree(home)
    receipt.write_text("{")
    sweep(tmp_path)
    assert not list((tmp_path / "digests").iterdir())


def test_there_may_be_no_cache_yet(tmp_path: Path) -> None:
    sweep(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
