import errno
import os
from pathlib import Path

import pytest

from nimlite.store.durable import discard, publish


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    stage = tmp_path / "model.part"
    (stage / "folder").mkdir(parents=True)
    for name in ("weights", "folder/file"):
        (stage / name).write_text(name)
    return stage


def test_all_reaches_the_disk_before_the_name_does(
    stage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, events = stage.with_suffix(""), []
    sync, rename = os.fsync, os.rename

    def watched_sync(descriptor: int) -> None:
        events.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    def watched_rename(source: Path, target: Path) -> None:
        events.append(f"renamed to {target}")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(os, "rename", watched_rename)
    publish(stage, home)
    assert events == [
        *(str(stage / name) for name in ("folder/file", "folder", "weights")),
        str(stage),
        f"renamed to {home}",
        str(home.parent),
    ]
    assert (home / "folder" / "file").read_text() == "folder/file"


def test_what_was_there_is_replaced(stage: Path) -> None:
    home = stage.with_suffix("")
    for left in (home, home.with_name("model.removed")):
        left.mkdir()
        (left / "old").touch()
    publish(stage, home)
    assert [path.name for path in home.parent.iterdir()] == ["model"]
    assert not (home / "old").exists()


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EIO])
def test_a_file_system_that_can_not_sync(
    stage: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    home = stage.with_suffix("")
    if code == errno.EINVAL:
        publish(stage, home)
    else:
        with pytest.raises(OSError, match="Input/output error"):
            publish(stage, home)
    assert home.exists() == (code == errno.EINVAL)


def test_what_is_gone_can_be_discarded(tmp_path: Path) -> None:
    discard(tmp_path / "nothing")
    (tmp_path / "half.removed").mkdir()
    discard(tmp_path / "half.removed")
    assert not list(tmp_path.iterdir())
