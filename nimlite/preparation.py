"""The plan's engine: found, or built of a checkpoint or of converted weights; and loaded."""

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nimlite.errors import (
    ArtifactError,
    ChecksumError,
    ModelError,
    SelfTestError,
    SettingError,
)
from nimlite.lookup import is_made, open_made
from nimlite.observe.progress import Progress
from nimlite.profiles.manifest import Artifact, Device, Profile
from nimlite.settings import Settings
from nimlite.startup import Plan, device_name, prepare_packing
from nimlite.store.cache import Store
from nimlite.store.disk import writing_to
from nimlite.store.inventory import ENGINE_FILE, evict, use
from nimlite.store.sweep import sweep

if TYPE_CHECKING:
    from nimlite.build.builder import BuildJob
    from nimlite.build.calibration_file import CalibrationFile
    from nimlite.build.checkpoint import Checkpoint
    from nimlite.build.converted_dir import ConvertedDirectory
    from nimlite.build.engine_dir import EngineDirectory
    from nimlite.engine.backend import Backend
    from nimlite.engine.engine import Engine

_log = logging.getLogger(__name__)


def prepare_engine(
    plan: Plan,
    store: Store,
    backend: "Backend",
    progress: Progress,
    home: Path | None = None,
    *,
    source: str | None = None,
) -> "EngineDirectory":
    """The engine of the plan: found, or fetched, built and proved; a damaged one is built again.

    `home`: where to build it instead of in the cache; such a one keeps the limits that the settings
    ask for. `source`: the checkpoint that a converted one was made of; default: where it was then.
    Raises what the store and the build raise.
    """
    from nimlite.build.builder import BuildJob
    from nimlite.models.registry import read_spec

    manifest, profile = plan.selection.manifest, _built_profile(plan, home)
    if is_made(Path(manifest.artifact.uri)):
        return _engine_of_made(plan, profile, store, backend, progress, home, source)
    if source:
        raise SettingError(
            f"--source={source} is for a MODEL that is a converted checkpoint or an engine"
            " directory; this one is the source itself."
        )
    calibration = _calibration(plan.settings)
    checkpoint = read_checkpoint(manifest.artifact, plan.settings, store, progress)
    job = BuildJob(
        calibration=calibration,
        checkpoint=checkpoint,
        profile=profile,
        device=device_name(plan),
        dense=backend.dense(read_spec(checkpoint.config)),
        model_name=manifest.display_name,
        served_name=manifest.served_name,
        source=manifest.artifact.shown,
    )
    return _build(job, home, plan, store, backend, progress)


def prepare_converted(
    plan: Plan, store: Store, progress: Progress, home: Path
) -> "ConvertedDirectory":
    """The plan's model, fetched and converted into `home`. Raises what the store and the conversion
    raise, and SettingError for a model that is converted already."""
    from nimlite.build.conversion import ConversionJob, convert_checkpoint

    manifest = plan.selection.manifest
    if is_made(Path(manifest.artifact.uri)):
        raise SettingError(
            f"{manifest.artifact.uri} is converted already: `nimlite build` makes an engine of it."
            " For another precision convert the model itself."
        )
    job = ConversionJob(
        calibration=_calibration(plan.settings),
        checkpoint=read_checkpoint(manifest.artifact, plan.settings, store, progress),
        profile=_built_profile(plan, home),
        model_name=manifest.display_name,
        served_name=manifest.served_name,
        source=manifest.artifact.shown,
    )
    return convert_checkpoint(job, home, progress, prepare_packing(plan))


def _engine_of_made(
    plan: Plan,
    profile: Profile,
    store: Store,
    backend: "Backend",
    progress: Progress,
    home: Path | None,
    source: str | None,
) -> "EngineDirectory":
    """The engine that the model is, or that is built of its converted weights."""
    from nimlite.build.builder import BuildJob, converted_key, existing_engine
    from nimlite.build.engine_dir import EngineDirectory, remember

    path = Path(plan.selection.manifest.artifact.uri)
    made = open_made(path, verify_weights=profile.device is Device.CPU)
    config, is_same = made.config, made.config.profile.engine_content == profile.engine_content
    if isinstance(made, EngineDirectory) and (home is None or (is_same and home == path)):
        if not is_same:
            raise SettingError(
                f"{plan.settings.named('kv_precision')} is not what {path} was proved with,"
                f" {config.profile.kv_precision}: `nimlite build` makes one that is, by --out DIR."
            )
        use(path, ENGINE_FILE)
        return remember(made, profile) if home else made
    dense = backend.dense(config.spec)
    key = converted_key(config, profile, device_name(plan), dense)
    there = home or store.engine_path(plan.selection.manifest.family, key)
    if (found := existing_engine(key, there, backend)) and use(there, ENGINE_FILE):
        return remember(found, profile) if home else found
    job = BuildJob(
        checkpoint=read_source(made, plan.settings, store, progress, source),
        profile=profile,
        device=device_name(plan),
        dense=dense,
        model_name=config.model_name,
        served_name=config.served_name,
        source=config.source,
        converted=made,
    )
    return _build(job, home, plan, store, backend, progress)


def _build(
    job: "BuildJob",
    home: Path | None,
    plan: Plan,
    store: Store,
    backend: "Backend",
    progress: Progress,
) -> "EngineDirectory":
    """Found or built, in `home` or in the cache, and in use from now on. The cache remembers an
    engine that failed its self-test, and the next start does not build it again."""
    from nimlite.build.builder import build_engine
    from nimlite.build.engine_dir import remember

    there = home or store.engine_path(plan.selection.manifest.family, job.key)
    failure = store.root / "failures" / job.key
    if home is None and failure.exists():
        raise SelfTestError(
            f"{failure.read_text()} That was at an earlier start; to try again, remove {failure}."
        )
    try:
        built = build_engine(job, there, progress, backend)
        while not use(built.path, ENGINE_FILE):  # evicted in this very moment
            built = build_engine(job, there, progress, backend)
    except SelfTestError as error:
        if home is None:
            _remember_failure(failure, error)
        raise
    sweep(store.root)
    if plan.settings.cache_max_bytes:
        evict(store.root, plan.settings.cache_max_bytes)
    return remember(built, job.profile) if home else built


def _remember_failure(file: Path, error: SelfTestError) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(error))
    except OSError as problem:
        _log.debug("%s can't be written: %s", file, problem)


def _built_profile(plan: Plan, home: Path | None) -> Profile:
    """What an engine is built for: in the cache the profile with the precision of its KV cache; in
    a `home` with the limits that the user gave, too, not those that this machine sets."""
    profile, serving = plan.selection.chosen.profile, plan.selection.chosen.serving
    if serving.kv_precision is not profile.kv_precision:
        profile = replace(profile, kv_precision=serving.kv_precision).identified()
    if home is None:
        return profile
    limited = replace(
        profile,
        max_model_len=plan.settings.max_model_len or profile.max_model_len,
        max_batch_size=serving.max_batch_size,
        max_num_tokens=serving.max_num_tokens,
    )
    return limited.identified()


def _calibration(settings: Settings) -> "CalibrationFile | None":
    from nimlite.build.calibration_file import read_calibration

    if settings.calibration is None:
        return None
    return read_calibration(settings.calibration, settings.named("calibration"))


def read_checkpoint(
    artifact: Artifact, settings: Settings, store: Store, progress: Progress
) -> "Checkpoint":
    """What the engine is made of. Of random weights only the config is fetched, where it is a file
    of its own."""
    from nimlite.build.checkpoint import open_checkpoint
    from nimlite.build.huggingface_config import read_config
    from nimlite.build.random import RandomCheckpoint

    if not settings.random_weights:
        return open_checkpoint(store.fetch(artifact, progress), store.block_sha256)
    if artifact.uri.startswith("hf://") and "?" not in artifact.uri:
        config = store.fetch_file(artifact, "config.json", progress)
        return RandomCheckpoint(read_config(config.parent))
    path = store.fetch(artifact, progress)
    tokenizer = path if (path / "tokenizer.json").is_file() else None
    return RandomCheckpoint(open_checkpoint(path).config, tokenizer=tokenizer)


def read_source(
    made: "ConvertedDirectory",
    settings: Settings,
    store: Store,
    progress: Progress,
    source: str | None,
) -> "Checkpoint":
    """The checkpoint that `made` was made of: `source`, or where it was then. It is what an engine
    is proved against.

    Raises ArtifactError where it can't be had, ModelError for another one.
    """
    from nimlite.build.random import PROVENANCE

    if made.config.provenance.startswith(PROVENANCE):
        settings = replace(settings, random_weights=True)
    try:
        artifact = Artifact(uri=source or made.config.source)
        checkpoint = read_checkpoint(artifact, settings, store, progress)
    except ArtifactError as error:
        if source:
            raise
        raise type(error)(
            f"{error} {made.path} was made of it, and an engine is proved against it: give it by"
            " --source."
        ) from error
    if checkpoint.digest != made.config.checkpoint_digest:
        raise ModelError(
            f"{made.path} was not made of this checkpoint ({checkpoint.provenance}): their digests"
            f" differ. It was made of {made.config.source}: give that as it was then, by --source,"
            " or make it again."
        )
    return checkpoint


def load_engine(
    plan: Plan, directory: "EngineDirectory", backend: "Backend", progress: Progress
) -> "Engine":
    """The engine with its weights and KV pool in memory.

    Weights that turn out to be damaged as they are read are built again, if the engine is one of
    the cache's. Raises ChecksumError for others.
    """
    from nimlite.engine.speculation import Speculation

    settings = plan.settings
    num_tokens = settings.num_speculative_tokens
    open_engine = partial(
        backend.open,
        prefix_caching=settings.enable_kv_cache_reuse,
        speculation=Speculation(num_tokens=num_tokens) if settings.specdec_enable else None,
    )
    try:
        return open_engine(directory, progress)
    except ChecksumError as error:
        store = Store(settings.cache_path, offline=settings.offline)
        given = Path(plan.selection.manifest.artifact.uri)
        if directory.path == given or not directory.path.is_relative_to(store.root):
            raise
        _log.warning("%s It is built again.", error)
        with writing_to(store.root):
            directory.discard_weights()
    rebuilt = prepare_engine(plan, store, backend, progress)
    return open_engine(rebuilt, progress)
