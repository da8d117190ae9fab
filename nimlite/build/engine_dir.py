"""The engine directory: what was built, self-contained, with the digest of every file.

engine.json             EngineConfig
rankN.safetensors       weights (weights_file.py)
*.plan, plans.json      TensorRT's, where it was asked for (tensorrt/plans.py)
kernels/                what a GPU's driver compiled and measured; made again where missing
tokenizer.json, …       as transformers reads them
NOTICE.nimlite, LICENSE         where the weights come from
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError

from nimlite.build.quality import GenerationReport, QualityReport
from nimlite.build.weights_file import (
    DamagedBlockError,
    is_weights_name,
    load_weights,
    stream_weights,
    weights_name,
)
from nimlite.errors import ChecksumError, ModelError
from nimlite.layers.linear import Weights
from nimlite.models.spec import ModelSpec
from nimlite.profiles.manifest import Profile
from nimlite.store.block_digest import BlockDigests, damage_of, digest_blocks
from nimlite.store.digest import FileDigest, damaged_files, digest_files
from nimlite.store.inventory import ENGINE_FILE
from nimlite.version import ENGINE_FORMAT, __version__


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What engine.json holds."""

    format: int = ENGINE_FORMAT
    nimlite_version: str = __version__
    key: str
    """`engine_key` of what it was built from."""
    model_name: str
    served_name: str
    """The name in /v1/models unless the settings say otherwise."""
    spec: ModelSpec
    profile: Profile
    eos_token_ids: tuple[int, ...]
    source: str
    """The artifact's URI or path."""
    provenance: str
    checkpoint_digest: str
    quality: QualityReport
    generation: GenerationReport
    built_at: str
    """UTC, ISO 8601."""
    build_seconds: float
    files: Mapping[str, FileDigest] = field(default_factory=dict)
    weights: Mapping[str, BlockDigests] = field(default_factory=dict)
    """By file name; all other files are in `files`."""


@dataclass(frozen=True, slots=True)
class EngineDirectory:
    """An engine directory that was found whole."""

    path: Path
    config: EngineConfig
    held: Weights | None = field(default=None, compare=False, repr=False)
    """The tensors of the only rank, where a build has just left them on their device."""

    def weights(self, rank: int = 0) -> Weights:
        """A rank's engine tensors, mapped from their file."""
        return load_weights(self.path, rank)

    def weights_on(self, device: torch.device, rank: int = 0) -> Weights:
        """A rank's engine tensors on `device`: those that are there, or read and checked. Raises
        ChecksumError for a damaged file."""
        if self.held is not None:
            return self.held
        name = weights_name(rank)
        try:
            return stream_weights(self.path / name, self.config.weights[name], device)
        except DamagedBlockError as error:
            raise _damaged(self.path / name, str(error)) from error

    def discard_weights(self) -> None:
        """Remove them: the directory is no whole engine any more, and a build makes it one."""
        for name in self.config.weights:
            (self.path / name).unlink(missing_ok=True)


_CONFIG = TypeAdapter(EngineConfig)


def engine_key(checkpoint_digest: str, profile: Profile, device: str, dense: str = "torch") -> str:
    """sha256 of everything that shapes an engine. `device`: what distinguishes machines whose
    engines differ. `dense`: what computes the dense layers."""
    shaped_by = {
        "checkpoint": checkpoint_digest,
        "profile": profile.engine_content,
        "device": device,
        "dense": dense,
        "torch": torch.__version__,
        "nimlite": __version__,
        "format": ENGINE_FORMAT,
    }
    return hashlib.sha256(json.dumps(shaped_by, sort_keys=True).encode()).hexdigest()


def seal(directory: Path, config: EngineConfig) -> EngineConfig:
    """Write engine.json with the digests of all other files. Gives the config as written."""
    names = {p.name for p in directory.iterdir() if p.is_file() and p.name != ENGINE_FILE}
    weights = {name for name in names if is_weights_name(name)}
    sealed = replace(
        config,
        files=digest_files(directory, names - weights),
        weights={name: digest_blocks(directory / name) for name in sorted(weights)},
    )
    (directory / ENGINE_FILE).write_bytes(_CONFIG.dump_json(sealed, indent=2))
    return sealed


def remember(directory: EngineDirectory, profile: Profile) -> EngineDirectory:
    """The engine with the limits of `profile`, which shape nothing else of it."""
    config = directory.config
    if config.profile == profile:
        return directory
    assert config.profile.engine_content == profile.engine_content, "that is another engine"
    config = replace(config, profile=profile)
    written = directory.path / f"{ENGINE_FILE}.part"
    written.write_bytes(_CONFIG.dump_json(config, indent=2))
    written.replace(directory.path / ENGINE_FILE)
    return replace(directory, config=config)


def open_engine(path: Path, *, verify: bool = True, verify_weights: bool = True) -> EngineDirectory:
    """Read an engine directory; `verify` compares every file with its digest. Without
    `verify_weights`, of the weights only the size: `weights_on` checks them as it reads them.

    Raises ModelError for a directory that is no engine of this format, ChecksumError for a damaged
    one.
    """
    try:
        text = (path / ENGINE_FILE).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(
            f"{path} is not an engine directory: it has no {ENGINE_FILE}. `nimlite build` makes"
            " one."
        ) from None
    try:
        found = json.loads(text)["format"]
        if found != ENGINE_FORMAT:
            raise ModelError(
                f"{path} has the engine format {found}; this nimlite {__version__} reads format"
                f" {ENGINE_FORMAT}."
                " Build it again with `nimlite build`."
            )
        config = _CONFIG.validate_json(text)
    except (ValidationError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise _damaged(path / ENGINE_FILE, f"it can't be read ({error})") from error
    if verify:
        for name, reason in damaged_files(path, config.files).items():
            raise _damaged(path / name, reason)
        for name, digests in config.weights.items():
            if problem := damage_of(path / name, digests, read=verify_weights):
                raise _damaged(path / name, problem)
    return EngineDirectory(path, config)


def _damaged(file: Path, reason: str) -> ChecksumError:
    return ChecksumError(
        f"{file} is damaged: {reason}. The engine must be built again (`nimlite serve` and"
        " `nimlite build` do so by"
        " themselves in the cache); if this repeats, check the disk."
    )
