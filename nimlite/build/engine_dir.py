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
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from pydantic import TypeAdapter

from nimlite.build.converted_dir import (
    ConvertedConfig,
    ConvertedDirectory,
    check_files,
    read_sealed,
    seal_as,
)
from nimlite.build.quality import GenerationReport, QualityReport
from nimlite.errors import ModelError
from nimlite.layers.linear import Weights
from nimlite.profiles.manifest import Profile
from nimlite.store.inventory import CONVERTED_FILE, ENGINE_FILE
from nimlite.version import ENGINE_FORMAT, __version__


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig(ConvertedConfig):
    """What engine.json holds."""

    key: str
    """`engine_key` of what it was built from."""
    quality: QualityReport
    generation: GenerationReport
    built_at: str
    """UTC, ISO 8601."""
    build_seconds: float


@dataclass(frozen=True, slots=True)
class EngineDirectory(ConvertedDirectory):
    """An engine directory that was found whole."""

    config: EngineConfig
    held: Weights | None = field(default=None, compare=False, repr=False)
    """The tensors of the only rank, where a build has just left them on their device."""

    def weights_on(self, device: torch.device, rank: int = 0) -> Weights:
        """A rank's engine tensors on `device`: those that are there, or read and checked. Raises
        ChecksumError for a damaged file."""
        if self.held is not None:
            return self.held
        return ConvertedDirectory.weights_on(self, device, rank)

    def discard_weights(self) -> None:
        """Remove them: the directory is no whole engine any more, and a build makes it one."""
        for name in self.config.weights:
            (self.path / name).unlink(missing_ok=True)


_CONFIG = TypeAdapter(EngineConfig)


def engine_key(
    checkpoint_digest: str,
    profile: Profile,
    device: str,
    dense: str = "torch",
    *,
    calibration: str | None = None,
    converter: str = __version__,
) -> str:
    """sha256 of everything that shapes an engine. `device`: what distinguishes machines whose
    engines differ. `dense`: what computes the dense layers. `calibration`: sha256 of the user's
    text. `converter`: the version that converted the weights."""
    shaped_by = {
        "checkpoint": checkpoint_digest,
        "profile": profile.engine_content,
        "calibration": calibration,
        "device": device,
        "dense": dense,
        "torch": torch.__version__,
        "converter": converter,
        "nimlite": __version__,
        "format": ENGINE_FORMAT,
    }
    return hashlib.sha256(json.dumps(shaped_by, sort_keys=True).encode()).hexdigest()


def seal(directory: Path, config: EngineConfig) -> EngineConfig:
    """Write engine.json with the digests of all other files. Gives the config as written."""
    return seal_as(directory, config, ENGINE_FILE, _CONFIG)


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
        raise ModelError(f"{path} is not an engine directory: {_what_is(path)}") from None
    config = read_sealed(path / ENGINE_FILE, text, _CONFIG)
    if verify:
        check_files(path, config, read_weights=verify_weights)
    return EngineDirectory(path, config)


def _what_is(path: Path) -> str:
    if (path / CONVERTED_FILE).exists():
        return f"it is a converted checkpoint. `nimlite build {path} --out DIR` makes one of it."
    if not path.exists():
        return "there is no such directory. `nimlite build` prints where it puts one."
    return f"it has no {ENGINE_FILE}. `nimlite build` makes one."
