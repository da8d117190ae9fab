"""The converted checkpoint: a model's weights as an engine holds them, not yet compiled or proved.

converted.json          ConvertedConfig
rankN.safetensors       weights (weights_file.py)
tokenizer.json, …       as transformers reads them
NOTICE.nimlite, LICENSE         where the weights come from

An engine directory is one, too, with engine.json in its place (engine_dir.py).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import TypeAdapter, ValidationError

from nimlite.build.weights_file import (
    DamagedBlockError,
    is_weights_name,
    load_weights,
    stream_weights,
    weights_name,
)
from nimlite.errors import ChecksumError, ModelError
from nimlite.layers.linear import Weights
from nimlite.models.embedding import EmbeddingSpec
from nimlite.models.spec import ModelSpec
from nimlite.profiles.manifest import Profile
from nimlite.store.block_digest import BlockDigests, damage_of, digest_blocks
from nimlite.store.digest import FileDigest, damaged_files, digest_files
from nimlite.store.inventory import CONVERTED_FILE
from nimlite.version import ENGINE_FORMAT, __version__

C = TypeVar("C", bound="ConvertedConfig")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertedConfig:
    """What converted.json holds."""

    format: int = ENGINE_FORMAT
    nimlite_version: str = __version__
    """Of the one that converted the weights."""
    model_name: str
    served_name: str
    """The name in /v1/models unless the settings say otherwise."""
    spec: ModelSpec
    profile: Profile
    eos_token_ids: tuple[int, ...]
    embedding: EmbeddingSpec | None = None
    """Of a model for embeddings and nothing else."""
    source: str
    """The artifact's URI or path."""
    provenance: str
    checkpoint_digest: str
    calibration: str | None = None
    """sha256 of the user's text that activations were measured on."""
    unused: tuple[str, ...] = ()
    """Tensors of the checkpoint that no operation reads."""
    folded_norms: int = 0
    """Norms whose weights hold the factors of the linears behind them."""
    files: Mapping[str, FileDigest] = field(default_factory=dict)
    weights: Mapping[str, BlockDigests] = field(default_factory=dict)
    """By file name; all other files are in `files`."""


@dataclass(frozen=True, slots=True)
class ConvertedDirectory:
    """A converted checkpoint that was found whole."""

    path: Path
    config: ConvertedConfig

    def weights(self, rank: int = 0) -> Weights:
        """A rank's engine tensors, mapped from their file."""
        return load_weights(self.path, rank)

    def weights_on(self, device: torch.device, rank: int = 0) -> Weights:
        """A rank's engine tensors on `device`, read and checked. Raises ChecksumError for a damaged
        file."""
        name = weights_name(rank)
        try:
            return stream_weights(self.path / name, self.config.weights[name], device)
        except DamagedBlockError as error:
            raise damaged(self.path / name, str(error)) from error


_CONFIG = TypeAdapter(ConvertedConfig)


def seal_as(directory: Path, config: C, file: str, adapter: TypeAdapter[C]) -> C:
    """Write `file` with the digests of all others. Gives the config as written."""
    names = {p.name for p in directory.iterdir() if p.is_file() and p.name != file}
    weights = {name for name in names if is_weights_name(name)}
    sealed = replace(
        config,
        files=digest_files(directory, names - weights),
        weights={name: digest_blocks(directory / name) for name in sorted(weights)},
    )
    (directory / file).write_bytes(adapter.dump_json(sealed, indent=2))
    return sealed


def seal_converted(directory: Path, config: ConvertedConfig) -> ConvertedConfig:
    """Write converted.json with the digests of all other files. Gives the config as written."""
    return seal_as(directory, config, CONVERTED_FILE, _CONFIG)


def open_converted(
    path: Path, *, verify: bool = True, verify_weights: bool = True
) -> ConvertedDirectory:
    """Read a converted checkpoint; `verify` and `verify_weights` as `open_engine` has them.

    Raises ModelError for a directory that is none of this format, ChecksumError for a damaged one.
    """
    try:
        text = (path / CONVERTED_FILE).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(
            f"{path} is not a converted checkpoint: it has no {CONVERTED_FILE}. `nimlite convert`"
            " makes one."
        ) from None
    config = read_sealed(path / CONVERTED_FILE, text, _CONFIG)
    if verify:
        check_files(path, config, read_weights=verify_weights)
    return ConvertedDirectory(path, config)


def read_sealed(file: Path, text: bytes, adapter: TypeAdapter[C]) -> C:
    """The config in the text of `file`. Raises as `open_converted` does."""
    try:
        found = json.loads(text)["format"]
        if found != ENGINE_FORMAT:
            raise ModelError(
                f"{file.parent} has the engine format {found}; this nimlite {__version__} reads"
                f" format {ENGINE_FORMAT}. Make it again with `{_maker(file)}`."
            )
        return adapter.validate_json(text)
    except (ValidationError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, ModelError):
            raise
        raise damaged(file, f"it can't be read ({error})") from error


def check_files(path: Path, config: ConvertedConfig, *, read_weights: bool) -> None:
    """Compare every file with its digest; without `read_weights`, of the weights only the size.
    Raises ChecksumError for the first that is damaged."""
    for name, reason in damaged_files(path, config.files).items():
        raise damaged(path / name, reason)
    for name, digests in config.weights.items():
        if problem := damage_of(path / name, digests, read=read_weights):
            raise damaged(path / name, problem)


def damaged(file: Path, reason: str) -> ChecksumError:
    """The error for a damaged file of a converted checkpoint or of an engine."""
    if (file.parent / CONVERTED_FILE).exists():
        remedy = "Convert the checkpoint again with `nimlite convert`"
    else:
        remedy = (
            "The engine must be built again (`nimlite serve` and `nimlite build` do so by"
            " themselves in the cache)"
        )
    return ChecksumError(f"{file} is damaged: {reason}. {remedy}; if this repeats, check the disk.")


def _maker(file: Path) -> str:
    return "nimlite convert" if file.name == CONVERTED_FILE else "nimlite build"
