"""A model store: one directory with a model's files, its manifest, and the digest of every file.

model-store.json    StoredModel
the other files     as the model's source has them

It is made whole or not at all. It can be carried to a machine without a network, and is served
there by `nimlite serve DIR`.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from nimlite.errors import ArtifactError, ChecksumError, UserError
from nimlite.observe.progress import Progress
from nimlite.profiles.manifest import Artifact, Manifest
from nimlite.store.digest import FileDigest, damaged_files, digest_files
from nimlite.store.durable import publish

STORE_FILE = "model-store.json"
_NOT_THE_MODEL = (STORE_FILE, "artifact.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """What model-store.json holds."""

    manifest: Manifest
    """Its artifact is where the files came from."""
    file: str | None
    """The file that is the model; None: the directory is."""
    files: Mapping[str, FileDigest]


_ADAPTER = TypeAdapter(StoredModel)


def create_model_store(manifest: Manifest, source: Path, home: Path, progress: Progress) -> Path:
    """Put the model of `manifest`, whose file or directory is `source`, into the directory `home`:
    by hard links, or by copies where the file system is another.

    The same store that is there already is left alone. Raises UserError for a `home` with something
    else in it, and ArtifactError for a disk that refuses.
    """
    manifest = replace(manifest, artifact=replace(manifest.artifact, uri=manifest.artifact.shown))
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        _require_same(manifest, home)
        return home
    work = home.with_name(f"{home.name}.part")
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        names = _fill(work, source, progress)
        stored = StoredModel(
            manifest=manifest,
            file=source.name if source.is_file() else None,
            files=digest_files(work, names),
        )
        (work / STORE_FILE).write_bytes(_ADAPTER.dump_json(stored, indent=2))
        publish(work, home)
    except OSError as error:
        reason = f"{error.strerror or error}: {error.filename or work}"
        raise ArtifactError(f"The model store {home} can't be made: {reason}.") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return home


def read_model_store(path: Path) -> Manifest | None:
    """The manifest of the model in the directory `path`, with its artifact there; None where it is
    no model store. Raises ChecksumError for one whose description can't be read."""
    stored = _read(path)
    if stored is None:
        return None
    artifact = Artifact(uri=str(path / stored.file if stored.file else path))
    return replace(stored.manifest, artifact=artifact)


def check_model_store(path: Path) -> None:
    """Compare the files of the store that `path` is, or lies in, with their digests.

    Raises ChecksumError for the first that differs; a `path` in no store is right.
    """
    home = path if path.is_dir() else path.parent
    stored = _read(home)
    if stored is None or (path != home and path.name != stored.file):
        return
    for name, reason in damaged_files(home, stored.files).items():
        raise ChecksumError(
            f"{home / name} is damaged: {reason}. Copy the model store again, or make it again by "
            "`nimlite create-model-store`."
        )


def _fill(work: Path, source: Path, progress: Progress) -> list[str]:
    files = [source] if source.is_file() else sorted(p for p in source.iterdir() if p.is_file())
    files = [file for file in files if file.name not in _NOT_THE_MODEL]
    with progress.task("Fill the model store", sum(f.stat().st_size for f in files)) as task:
        for file in files:
            _link(file.resolve(), work / file.name)
            task.advance(file.stat().st_size)
    return [file.name for file in files]


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _require_same(manifest: Manifest, home: Path) -> None:
    stored = _read(home) if home.is_dir() else None
    if stored is None or stored.manifest != manifest:
        what = "is another model store" if stored else "holds something else"
        raise UserError(
            f"{home} {what}, and it is left alone: choose another directory, or remove this one."
        )
    check_model_store(home)


def _read(home: Path) -> StoredModel | None:
    try:
        text = (home / STORE_FILE).read_bytes()
    except OSError:
        return None
    try:
        return _ADAPTER.validate_json(text)
    except ValidationError as error:
        raise ChecksumError(
            f"{home / STORE_FILE} can't be read: it is damaged, or of another version of nimlite. "
            "Make the model store again by `nimlite create-model-store`."
        ) from error
