"""Which model a name means: its manifest.

Nothing that needs torch is imported before a function needs it.
"""

import difflib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nimlite.errors import SettingError
from nimlite.observe.progress import Progress
from nimlite.profiles.checkpoint_size import count_parameters
from nimlite.profiles.generate import generate_manifest
from nimlite.profiles.load import load_manifests, profiles_directory
from nimlite.profiles.manifest import Artifact, Manifest
from nimlite.profiles.shape import ModelShape
from nimlite.redaction import public
from nimlite.store.cache import Store
from nimlite.store.inventory import CONVERTED_FILE, ENGINE_FILE
from nimlite.store.model_store import read_model_store

if TYPE_CHECKING:
    from nimlite.build.converted_dir import ConvertedDirectory

DEFAULT_FAMILY = "smollm2-135m"


def find_manifest(model: str | None, store: Store, progress: Progress) -> Manifest:
    """The manifest of a family, or one generated for what `model` names.

    `model`: a profile family, a model store, an engine directory, a Hugging Face directory, a GGUF
    file, or a URI that the store reads. Raises SettingError for anything else, ModelError for a
    model that is not supported, and the store's errors.
    """
    name = model or DEFAULT_FAMILY
    manifests = {manifest.family: manifest for manifest in load_manifests(profiles_directory())}
    if name in manifests:
        return manifests[name]
    path = Path(name).expanduser()
    if "://" not in name and not os.path.exists(path):
        nearest = difflib.get_close_matches(name, manifests, n=1)
        hint = f" Did you mean {nearest[0]}?" if nearest else ""
        raise SettingError(
            f"The model {name!r} is neither a path that exists nor a family that has profiles "
            f"({', '.join(manifests)}).{hint} From the Hugging Face Hub: hf://org/name."
        )
    if "://" in name:
        return _manifest_of_uri(name, store, progress)
    return _manifest_of_path(path.resolve())


def _manifest_of_path(path: Path) -> Manifest:
    from nimlite.build.huggingface_config import read_config
    from nimlite.models.registry import read_spec

    if stored := read_model_store(path):
        return stored
    if is_made(path):
        return _manifest_of_made(path)
    if (path / "config.json").is_file():  # the usual one: read without importing torch
        config = read_config(path)
    else:
        from nimlite.build.checkpoint import open_checkpoint

        config = open_checkpoint(path).config
    shape = ModelShape.of(read_spec(config))
    shape = replace(shape, checkpoint_parameters=count_parameters(path))
    return generate_manifest(
        path.stem if path.is_file() else path.name, shape, Artifact(uri=str(path))
    )


def _manifest_of_made(path: Path) -> Manifest:
    config = open_made(path, verify=False).config
    return Manifest(
        family=config.profile.family,
        display_name=config.model_name,
        served_name=config.served_name,
        license="unknown",
        artifact=Artifact(uri=str(path)),
        shape=ModelShape.of(config.spec),
        profiles=(config.profile,),
    )


def _manifest_of_uri(uri: str, store: Store, progress: Progress) -> Manifest:
    """Of a Hub repository only the config is fetched; of another source all, for its config is
    inside."""
    from nimlite.build.checkpoint import open_checkpoint
    from nimlite.build.huggingface_config import read_config
    from nimlite.models.registry import read_spec

    address = public(uri).partition("?")[0]
    name = address.partition("://")[2].partition("@")[0].removesuffix(".gguf")
    if uri.startswith("hf://") and "?" not in uri:
        config = store.fetch_file(Artifact(uri=uri), "config.json", progress)
        spec = read_spec(read_config(config.parent))
    else:
        spec = read_spec(open_checkpoint(store.fetch(Artifact(uri=uri), progress)).config)
    return generate_manifest(name, ModelShape.of(spec), Artifact(uri=uri))


def is_made(path: Path) -> bool:
    """Whether nimlite made what is in the directory: an engine, or a converted checkpoint."""
    return (path / ENGINE_FILE).exists() or (path / CONVERTED_FILE).exists()


def open_made(path: Path, **verify: bool) -> "ConvertedDirectory":
    """The engine or the converted checkpoint in the directory. `verify` and errors: those of
    `open_engine`."""
    from nimlite.build.converted_dir import open_converted
    from nimlite.build.engine_dir import open_engine

    is_engine = (path / ENGINE_FILE).exists()
    return open_engine(path, **verify) if is_engine else open_converted(path, **verify)
