"""One engine, built once: under a lock, in a temporary directory, proved, sealed, renamed into
place."""

import json
import logging
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from nimlite.build.calibration import calibration_texts, default_text
from nimlite.build.checkpoint import Checkpoint
from nimlite.build.convert import convert, convert_on_device
from nimlite.build.engine_dir import (
    EngineConfig,
    EngineDirectory,
    engine_key,
    open_engine,
    seal,
)
from nimlite.build.proof import prompts_for, prove
from nimlite.build.quality import Proof
from nimlite.build.quantize import CALIBRATED, recipe_for
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
from nimlite.store.disk import writing_to
from nimlite.store.durable import publish
from nimlite.store.inventory import BUILDING, ENGINE_FILE
from nimlite.store.turn import turn
from nimlite.tensorrt.plan_cache import carry_over
from nimlite.version import __version__

log = logging.getLogger(__name__)

_CALIBRATION_TOKENS = 4096
"""Enough for the largest activations; a few seconds of a small model's time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildJob:
    """What to build, of what, for whom."""

    checkpoint: Checkpoint
    profile: Profile
    device: str
    """What distinguishes machines whose engines differ."""
    dense: str = "torch"
    """What computes the dense layers, as the target names it."""
    model_name: str
    served_name: str
    source: str
    """The artifact's URI or path."""

    @property
    def key(self) -> str:
        return engine_key(self.checkpoint.digest, self.profile, self.device, self.dense)


def build_engine(
    job: BuildJob, home: Path, progress: Progress, target: BuildTarget
) -> EngineDirectory:
    """The engine of `job` in the directory `home`: the one that is there if it is whole, or a new
    one.

    Raises ModelError for a model that can't be built, SelfTestError for an engine that is not the
    model, BuildError for a
    `home` with something else in it, and ArtifactError for a disk that refuses. Nothing half-made
    is left.
    """
    if found := _existing(job, home, target):
        return found
    with writing_to(home.parent):
        home.parent.mkdir(parents=True, exist_ok=True)
        with turn(home.with_name(f"{home.name}.lock"), progress) as shown:
            # Another process may have built it while this one waited for the lock.
            if found := _existing(job, home, target):
                return found
            work = home.with_name(f"{home.name}{BUILDING}")
            shutil.rmtree(work, ignore_errors=True)
            try:
                work.mkdir()
                carry_over(home, work)
                built = _build(job, work, shown, target)
                publish(work, home)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return replace(built, path=home)


def _build(job: BuildJob, work: Path, progress: Progress, target: BuildTarget) -> EngineDirectory:
    """Fill `work`, prove it and seal it."""
    started = time.monotonic()
    spec = read_spec(job.checkpoint.config)
    job.checkpoint.save_tokenizer(work)
    _write_notice(job, work)
    held = None
    if target.keeps_weights:
        held, proof = _build_on_device(job, spec, work, progress, target)
    else:
        recipe = _recipe(job, spec, work, progress, target)
        convert(job.checkpoint, spec, target, job.profile.tp, work, progress, recipe)
        proof = _prove(job, spec, work, progress, target)
    config = EngineConfig(
        key=job.key,
        model_name=job.model_name,
        served_name=job.served_name,
        spec=spec,
        profile=job.profile,
        eos_token_ids=_eos_token_ids(job.checkpoint, work),
        source=job.source,
        provenance=job.checkpoint.provenance,
        checkpoint_digest=job.checkpoint.digest,
        quality=proof.quality,
        generation=proof.generation,
        built_at=datetime.now(UTC).isoformat(timespec="seconds"),
        build_seconds=round(time.monotonic() - started, 1),
    )
    with progress.task("Seal the engine", None, ""):
        return EngineDirectory(work, seal(work, config), held)


def _build_on_device(
    job: BuildJob, spec: ModelSpec, work: Path, progress: Progress, target: BuildTarget
) -> tuple[Weights, Proof]:
    """The weights are proved where they will serve, while threads compile, and write the weights to
    their file."""
    prompts = prompts_for(spec, job.profile, work)
    with ThreadPoolExecutor(2) as threads:
        prepared = threads.submit(target.prepare, spec, work, progress)
        recipe = _recipe(job, spec, work, progress, target)
        weights = convert_on_device(job.checkpoint, spec, target, WHOLE, progress, recipe)
        written = threads.submit(write_weights, work / weights_name(0), weights, target.device)
        with progress.task("Compute the reference", None, ""):
            expected = tuple(Reference(job.checkpoint, spec, target.device)(prompts))
        prepared.result()
        engine = target.logits(spec, weights, work, progress)
        proof = prove(engine, lambda _: iter(expected), prompts, job.profile, progress)
        with progress.task("Write the weights", None, ""):
            written.result()
    return weights, proof


def _prove(
    job: BuildJob, spec: ModelSpec, work: Path, progress: Progress, target: BuildTarget
) -> Proof:
    prompts = prompts_for(spec, job.profile, work)
    engine = target.logits(spec, load_weights(work), work, progress)
    return prove(engine, Reference(job.checkpoint, spec), prompts, job.profile, progress)


def _recipe(
    job: BuildJob, spec: ModelSpec, work: Path, progress: Progress, target: BuildTarget
) -> Recipe:
    precision = job.profile.precision
    if precision not in CALIBRATED:
        return recipe_for(precision, job.checkpoint, spec, (), target.device)
    with progress.task("Calibrate", None, ""):
        prompts_for(spec, job.profile, work)  # raises for another model's tokenizer
        texts = calibration_texts(work / "tokenizer.json", default_text(), _CALIBRATION_TOKENS)
        return recipe_for(precision, job.checkpoint, spec, texts, target.device)


def _existing(job: BuildJob, home: Path, target: BuildTarget) -> EngineDirectory | None:
    """The engine in `home` if it is this one and whole."""
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
    return found if found.config.key == job.key else None


def _eos_token_ids(checkpoint: Checkpoint, work: Path) -> tuple[int, ...]:
    """The tokens that end an answer: generation_config.json before config.json, as transformers
    does."""
    found = checkpoint.config.get("eos_token_id")
    file = work / "generation_config.json"
    if file.exists():
        found = json.loads(file.read_text()).get("eos_token_id", found)
    if found is None:
        return ()
    return tuple(found) if isinstance(found, list) else (found,)


def _write_notice(job: BuildJob, work: Path) -> None:
    """Licences ask that changed copies say so and keep the original's text."""
    names = [file.name for file in job.checkpoint.license_files]
    for file in job.checkpoint.license_files:
        shutil.copyfile(file, work / file.name)
    licence = f"Its licence is in {', '.join(names)}." if names else "Its licence holds."
    (work / "NOTICE.nimlite").write_text(
        f"The weights in this directory are not the original ones.\n\n"
        f"Model: {job.model_name}\n"
        f"Origin: {job.checkpoint.provenance}\n"
        f"Fetched from: {job.source}\n"
        f"Changes: nimlite {__version__} fused the projections and packed the weights as"
        f" {job.profile.precision}.\n"
        f"{licence}\n"
    )
