"""One engine, built once: converted, proved, sealed."""

import logging
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path

from nimlite.build.conversion import ConversionJob, describe, make_recipe
from nimlite.build.convert import convert, convert_on_device
from nimlite.build.converted_dir import ConvertedConfig, ConvertedDirectory
from nimlite.build.engine_dir import (
    EngineConfig,
    EngineDirectory,
    engine_key,
    open_engine,
    seal,
)
from nimlite.build.once import made_once
from nimlite.build.proof import prompts_for, prove
from nimlite.build.quality import Proof
from nimlite.build.recipe import Recipe
from nimlite.build.reference import Reference
from nimlite.build.target import BuildTarget
from nimlite.build.weights_file import load_weights, weights_name, write_weights
from nimlite.errors import BuildError, ChecksumError, ModelError
from nimlite.layers.linear import Weights
from nimlite.layers.shard import WHOLE
from nimlite.models.registry import read_spec
from nimlite.models.spec import ModelSpec
from nimlite.observe.progress import Progress
from nimlite.profiles.manifest import Profile
from nimlite.profiles.memory import weight_bytes
from nimlite.profiles.shape import ModelShape
from nimlite.store.disk import require_space
from nimlite.store.inventory import ENGINE_FILE, PLANS_FILE
from nimlite.tensorrt.plan_cache import carry_over, drop_unused

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildJob(ConversionJob):
    """What to build, of what, for whom."""

    device: str
    """What distinguishes machines whose engines differ."""
    dense: str = "torch"
    """What computes the dense layers, as the target names it."""
    converted: ConvertedDirectory | None = None
    """Where `checkpoint` has been converted before: its weights are taken from there."""

    @property
    def key(self) -> str:
        if self.converted:
            return converted_key(self.converted.config, self.profile, self.device, self.dense)
        calibration, digest = self.calibrated_on, self.checkpoint.digest
        return engine_key(digest, self.profile, self.device, self.dense, calibration=calibration)


def converted_key(config: ConvertedConfig, profile: Profile, device: str, dense: str) -> str:
    """Of the engine that is built from a converted checkpoint: where the same nimlite converted it,
    that of the engine that is built at once."""
    return engine_key(
        config.checkpoint_digest,
        profile,
        device,
        dense,
        calibration=config.calibration,
        converter=config.nimlite_version,
    )


def build_engine(
    job: BuildJob, home: Path, progress: Progress, target: BuildTarget
) -> EngineDirectory:
    """The engine of `job` in the directory `home`: the one that is there if it is whole, or a new
    one.

    Raises ModelError for a model that can't be built, SelfTestError for an engine that is not the
    model, BuildError for a `home` with something else in it, and ArtifactError for a disk that
    refuses. Nothing half-made is left.
    """
    built = made_once(
        home,
        progress,
        lambda: existing_engine(job.key, home, target),
        lambda work, shown: _build(job, home, work, shown, target),
    )
    return replace(built, path=home)


def existing_engine(key: str, home: Path, target: BuildTarget) -> EngineDirectory | None:
    """The engine in `home` if it is the one of `key` and whole. Raises BuildError for other
    files."""
    if not home.exists():
        return None
    if not (home / ENGINE_FILE).exists() and any(home.iterdir()):
        raise BuildError(
            f"{home} holds files that are no engine, and they are left alone: choose another"
            " directory, or empty this one."
        )
    try:
        found = open_engine(home, verify_weights=not target.keeps_weights)
    except (ChecksumError, ModelError) as error:
        log.warning("%s It is built again.", error)
        return None
    return found if found.config.key == key else None


def _build(
    job: BuildJob, home: Path, work: Path, progress: Progress, target: BuildTarget
) -> EngineDirectory:
    """Fill `work`, with what can serve again of `home`, prove it and seal it."""
    started = time.monotonic()
    spec = read_spec(job.checkpoint.config)
    engine_bytes = job.profile.tp * weight_bytes(ModelShape.of(spec), job.profile)
    require_space(work, engine_bytes, f"The engine of {job.model_name}")
    carry_over(home, work)
    converted = _copy(job.converted, work) if job.converted else describe(job, spec, work)
    held = None
    if target.keeps_weights:
        held, recipe, proof = _build_on_device(job, spec, work, progress, target)
    else:
        recipe = _write_weights(job, spec, work, progress, target)
        proof = _prove(job, spec, work, progress, target)
    if recipe:
        converted = replace(converted, folded_norms=recipe.folded_norms)
    config = EngineConfig(
        **{each.name: getattr(converted, each.name) for each in fields(ConvertedConfig)}
        | {"profile": job.profile},
        key=job.key,
        quality=proof.quality,
        generation=proof.generation,
        built_at=datetime.now(UTC).isoformat(timespec="seconds"),
        build_seconds=round(time.monotonic() - started, 1),
    )
    drop_unused(work)
    with progress.task("Seal the engine", None, ""):
        return EngineDirectory(work, seal(work, config), held)


def _copy(converted: ConvertedDirectory, work: Path) -> ConvertedConfig:
    """All but the weights, and what says how plans are used: that is decided anew."""
    for name in converted.config.files.keys() - {PLANS_FILE}:
        shutil.copyfile(converted.path / name, work / name)
    return converted.config


def _write_weights(
    job: BuildJob, spec: ModelSpec, work: Path, progress: Progress, target: BuildTarget
) -> Recipe | None:
    """The weights' files, one engine tensor after the other; gives how they were made, unless they
    were there."""
    if job.converted is None:
        recipe = make_recipe(job, spec, work, progress, target)
        tp, pp = job.profile.tp, job.profile.pp
        convert(job.checkpoint, spec, target, tp, work, progress, recipe, pp=pp)
        return recipe
    with progress.task("Copy the weights", None, ""):
        for name in job.converted.config.weights:
            shutil.copyfile(job.converted.path / name, work / name)
    return None


def _build_on_device(
    job: BuildJob, spec: ModelSpec, work: Path, progress: Progress, target: BuildTarget
) -> tuple[Weights, Recipe | None, Proof]:
    """The weights are proved where they will serve, while threads compile, and write the weights to
    their file."""
    prompts = prompts_for(spec, job.profile, work)
    with ThreadPoolExecutor(2) as threads:
        prepared = threads.submit(target.prepare, spec, work, progress)
        weights, recipe = _weights_on_device(job, spec, work, progress, target)
        written = threads.submit(write_weights, work / weights_name(0), weights, target.device)
        with progress.task("Compute the reference", None, ""):
            expected = tuple(Reference(job.checkpoint, spec, target.device)(prompts))
        prepared.result()
        engine = target.logits(spec, weights, work, progress)
        proof = prove(engine, lambda _: iter(expected), prompts, job.profile, progress)
        with progress.task("Write the weights", None, ""):
            written.result()
    return weights, recipe, proof


def _weights_on_device(
    job: BuildJob, spec: ModelSpec, work: Path, progress: Progress, target: BuildTarget
) -> tuple[Weights, Recipe | None]:
    if job.converted:
        with progress.task("Read the weights", None, ""):
            return job.converted.weights_on(target.device), None
    recipe = make_recipe(job, spec, work, progress, target)
    weights = convert_on_device(job.checkpoint, spec, target, WHOLE, progress, recipe)
    return weights, recipe


def _prove(
    job: BuildJob, spec: ModelSpec, work: Path, progress: Progress, target: BuildTarget
) -> Proof:
    prompts = prompts_for(spec, job.profile, work)
    engine = target.logits(spec, load_weights(work), work, progress)
    return prove(engine, Reference(job.checkpoint, spec), prompts, job.profile, progress)
