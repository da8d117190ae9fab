"""Model stores: made whole, carried anywhere, served there."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from nimlite.errors import ArtifactError, ChecksumError, UserError
from nimlite.observe.progress import Progress
from nimlite.profiles.load import load_manifest, profiles_directory
from nimlite.profiles.manifest import Artifact
from nimlite.store.cache import Store
from nimlite.store.model_store import create_model_store, read_model_store

MANIFEST = load_manifest(profiles_directory() / "smollm2-135m.yaml")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    (directory / "onnx").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "artifact.json"):
        (directory / name).write_text(f"{name} " * 1000)
    return directory


def test_a_directory_is_linked_and_carried(model: Path, tmp_path: Path, progress: Progress) -> None:
    home = create_model_store(MANIFEST, model, tmp_path / "store", progress)
    assert sorted(p.name for p in home.iterdir()) == [
        "config.json",
        "model-store.json",
        "model.safetensors",
    ]
    assert (home / "config.json").stat().st_ino == (model / "config.json").stat().st_ino
    carried = shutil.copytree(home, tmp_path / "elsewhere")
    read = read_model_store(carried)
    assert read == replace(MANIFEST, artifact=Artifact(uri=str(carried)))
    assert Store(tmp_path / "cache", offline=True).fetch(read.artifact, progress) == carried


def test_a_file_is_the_model(model: Path, tmp_path: Path, progress: Progress) -> None:
    link = tmp_path / "tiny.gguf"
    link.symlink_to(model / "model.safetensors")
    home = create_model_store(MANIFEST, link, tmp_path / "store", progress)
    read = read_model_store(home)
    assert read is not None
    assert read.artifact.uri == str(home / "tiny.gguf")
    assert not (home / "tiny.gguf").is_symlink()


def test_across_file_systems_it_is_copied(
    model: Path, tmp_path: Path, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    home = create_model_store(MANIFEST, model, tmp_path / "store", progress)
    assert (home / "config.json").read_text() == (model / "config.json").read_text()
    assert (home / "config.json").stat().st_ino != (model / "config.json").stat().st_ino


def test_a_damaged_file_is_named(model: Path, tmp_path: Path, progress: Progress) -> None:
    home = create_model_store(MANIFEST, model, tmp_path / "store", progress)
    (home / "model.safetensors").write_text("short")
    read = read_model_store(home)
    assert read is not None
    with pytest.raises(ChecksumError, match=r"model\.safetensors is damaged: it has 5 bytes inst"):
        Store(tmp_path / "cache").fetch(read.artifact, progress)
    (home / "model-store.json").write_text("{")
    with pytest.raises(ChecksumError, match=r"model-store\.json can't be read: it is damaged, or"):
        read_model_store(home)


def test_what_is_there_is_left_alone(model: Path, tmp_path: Path, progress: Progress) -> None:
    home = tmp_path / "store"
    home.mkdir()
    create_model_store(MANIFEST, model, home, progress)
    made = (home / "model-store.json").stat().st_mtime_ns
    create_model_store(MANIFEST, model, home, progress)
    assert (home / "model-store.json").stat().st_mtime_ns == made
    fewer = replace(MANIFEST, profiles=MANIFEST.profiles[:1])
    with pytest.raises(UserError, match=r"store is another model store, and it is left alone"):
        create_model_store(fewer, model, home, progress)
    with pytest.raises(UserError, match=r"model holds something else, and it is left alone"):
        create_model_store(MANIFEST, model, model, progress)


def test_a_disk_that_refuses_leaves_nothing(
    model: Path, tmp_path: Path, progress: Progress
) -> None:
    with pytest.raises(ArtifactError, match=r"The model store .* can't be made: Not a directory"):
        create_model_store(MANIFEST, model, model / "config.json" / "store", progress)
    assert not list(tmp_path.glob("*.part"))


def test_what_is_no_model_store(model: Path) -> None:
    assert read_model_store(model) is None
    assert read_model_store(model / "config.json") is None
