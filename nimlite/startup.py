"""From a model's name to an engine that serves, in plain functions; the commands put them together.

    find_manifest ─► make_plan ─► prepare_kernels ─► prepare_engine ─► load_engine ─► serve
    which model?     which        compiled           fetched, built    weights in     HTTP
                     profile?     once               and proved        memory

Nothing that needs torch is imported before a function needs it: `nimlite probe` stays fast.
"""

import difflib
import logging
import os
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from nimlite.errors import ChecksumError, SelfTestError, SettingError
from nimlite.observe.progress import Progress
from nimlite.probe import Machine
from nimlite.probe.machine import Gpu
from nimlite.profiles.checkpoint_size import count_parameters
from nimlite.profiles.generate import generate_manifest
from nimlite.profiles.load import load_manifests, profiles_directory
from nimlite.profiles.manifest import Artifact, Device, Manifest, Profile
from nimlite.profiles.selection import Selection, next_precision, select
from nimlite.profiles.shape import ModelShape
from nimlite.redaction import public
from nimlite.settings import Settings
from nimlite.settings.values import DenseBackend
from nimlite.store.cache import Store
from nimlite.store.inventory import ENGINE_FILE, evict, use
from nimlite.store.model_store import read_model_store
from nimlite.store.sweep import sweep

if TYPE_CHECKING:
    from nimlite.build.checkpoint import Checkpoint
    from nimlite.build.engine_dir import EngineDirectory
    from nimlite.engine.backend import Backend
    from nimlite.engine.engine import Engine

DEFAULT_FAMILY = "smollm2-135m"
T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What will be served and how, decided before anything large is fetched or built."""

    settings: Settings
    machine: Machine
    selection: Selection

    @property
    def served_names(self) -> tuple[str, ...]:
        """The names in the API, the main one first."""
        return self.settings.served_model_name or (self.selection.manifest.served_name,)

    @property
    def num_threads(self) -> int:
        """Compute threads: a core stays free for the HTTP side and everybody else's work."""
        return self.settings.num_threads or max(1, self.machine.cpu.usable_cores - 1)


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
    if (path / "engine.json").exists():
        return _manifest_of_engine(path)
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


def _manifest_of_engine(path: Path) -> Manifest:
    from nimlite.build.engine_dir import open_engine

    built = open_engine(path, verify=False).config
    return Manifest(
        family=built.model_name,
        display_name=built.model_name,
        served_name=built.served_name,
        license="unknown",
        artifact=Artifact(uri=str(path)),
        shape=ModelShape.of(built.spec),
        profiles=(built.profile,),
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
        config = store.fetch(Artifact(uri=f"{uri}?file=config.json"), progress)
        spec = read_spec(read_config(config.parent))
    else:
        spec = read_spec(open_checkpoint(store.fetch(Artifact(uri=uri), progress)).config)
    return generate_manifest(name, ModelShape.of(spec), Artifact(uri=uri))


def make_plan(manifest: Manifest, machine: Machine, settings: Settings) -> Plan:
    """Choose the profile. Raises SettingError where none can run."""
    return Plan(settings=settings, machine=machine, selection=select(manifest, machine, settings))


def limit_openmp(environ: MutableMapping[str, str], num_threads: int) -> None:
    """Keep OpenMP to its threads and from spinning between steps; what the user set stands.

    A spinning thread takes the core that the HTTP side needs: a decode then runs at a quarter of
    its speed. Must come before torch is imported.
    """
    environ.setdefault("OMP_NUM_THREADS", str(num_threads))
    environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def choose_gpu(environ: MutableMapping[str, str], plan: Plan) -> None:
    """Show CUDA only the GPU that was chosen; what the user set stands.

    Must come before CUDA is initialized.
    """
    if plan.selection.chosen.profile.num_gpus == 1 and len(plan.machine.gpus) > 1:
        environ.setdefault("CUDA_VISIBLE_DEVICES", _first_gpu(plan).uuid)


def first_that_passes(plan: Plan, start: Callable[[Plan], T]) -> tuple[Plan, T]:
    """What `start` makes of the plan; where the engine fails its self-test, of the next precision.

    Raises SelfTestError where nothing else runs, or the user asked for that profile.
    """
    while True:
        try:
            return plan, start(plan)
        except SelfTestError as error:
            selection = next_precision(plan.selection)
            if selection is None:
                raise
            name = selection.chosen.profile.name
            _log.warning("%s %s is tried instead.", error, name)
            plan = replace(plan, selection=selection)


def prepare_kernels(plan: Plan, store: Store, progress: Progress) -> "Backend":
    """The device of the plan's profile, with the operations of this machine. On the CPU: found in
    the cache or compiled, or plain torch. On a GPU they are compiled for an engine, and kept with
    it."""
    chosen = plan.selection.chosen
    if chosen.profile.device is Device.GPU:
        from nimlite.engine.gpu import GpuBackend

        choose_gpu(os.environ, plan)
        wanted = None if plan.settings.kvcache_percent else chosen.profile.kv_cache_bytes
        serving = replace(chosen.serving, kv_cache_bytes=wanted)
        gpu = _first_gpu(plan)
        # alone to be seen, it is the first
        index = 0 if os.environ.get("CUDA_VISIBLE_DEVICES") == gpu.uuid else gpu.index
        return GpuBackend(
            profile=serving,
            memory_bytes=chosen.memory.budget,
            index=index,
            backend=plan.settings.backend,
        )
    _require_no_tensorrt(plan.settings)
    from nimlite.engine.cpu import CpuBackend
    from nimlite.kernels import cpu_kernels

    head_dim = plan.selection.manifest.shape.head_dim
    with progress.task("Prepare the kernels", None, ""):
        selected = cpu_kernels(store.kernels, plan.num_threads, head_dim)
    _log.info("%s", selected.reason)
    return CpuBackend(profile=chosen.serving, kernels=selected.kernels)


def _require_no_tensorrt(settings: Settings) -> None:
    """On the CPU. Raises SettingError where it was asked for."""
    if settings.backend is DenseBackend.TENSORRT:
        raise SettingError(
            f"{settings.named('backend')} needs an NVIDIA GPU, and the chosen profile runs on the"
            " CPU: take auto, which uses TensorRT only where it runs, or torch."
        )
    if settings.backend is DenseBackend.AUTO:
        _log.warning("torch runs the dense layers: TensorRT needs an NVIDIA GPU.")


def prepare_engine(
    plan: Plan, store: Store, backend: "Backend", progress: Progress, home: Path | None = None
) -> "EngineDirectory":
    """The engine of the plan: found, or fetched, built and proved; a damaged one is built again.

    `home`: where to build it instead of in the cache; such a one keeps the limits that the settings
    ask for. Raises what the store and the build raise.
    """
    from nimlite.build.builder import BuildJob, build_engine
    from nimlite.build.engine_dir import open_engine, remember
    from nimlite.models.registry import read_spec

    manifest, chosen = plan.selection.manifest, plan.selection.chosen
    path = Path(manifest.artifact.uri)
    if (path / ENGINE_FILE).exists():
        return open_engine(path, verify_weights=chosen.profile.device is Device.CPU)
    checkpoint = read_checkpoint(manifest.artifact, plan.settings, store, progress)
    job = BuildJob(
        checkpoint=checkpoint,
        profile=_limited(plan) if home else chosen.profile,
        device=_device_name(plan),
        dense=backend.dense(read_spec(checkpoint.config)),
        model_name=manifest.display_name,
        served_name=manifest.served_name,
        source=manifest.artifact.shown,
    )
    cached = store.engine_path(manifest.family, job.key)
    built = build_engine(job, home or cached, progress, backend)
    while not use(built.path, ENGINE_FILE):  # evicted in this very moment
        built = build_engine(job, home or cached, progress, backend)
    sweep(store.root)
    if plan.settings.cache_max_bytes:
        evict(store.root, plan.settings.cache_max_bytes)
    return remember(built, job.profile) if home else built


def _limited(plan: Plan) -> Profile:
    """The profile with the limits that the user gave, not those that this machine sets."""
    profile, serving = plan.selection.chosen.profile, plan.selection.chosen.serving
    limited = replace(
        profile,
        max_model_len=plan.settings.max_model_len or profile.max_model_len,
        max_batch_size=serving.max_batch_size,
        max_num_tokens=serving.max_num_tokens,
    )
    return limited.identified()


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
        config = store.fetch(Artifact(uri=f"{artifact.uri}?file=config.json"), progress)
        return RandomCheckpoint(read_config(config.parent))
    path = store.fetch(artifact, progress)
    tokenizer = path if (path / "tokenizer.json").is_file() else None
    return RandomCheckpoint(open_checkpoint(path).config, tokenizer=tokenizer)


def _device_name(plan: Plan) -> str:
    """What an engine depends on: the CPU's only on the instruction set at large."""
    if plan.selection.chosen.profile.device is Device.CPU:
        return f"cpu-{plan.machine.cpu.architecture}"
    gpu = _first_gpu(plan)
    return f"{gpu.name} {gpu.compute_capability}"


def _first_gpu(plan: Plan) -> Gpu:
    chosen = plan.selection.chosen
    return next(gpu for gpu in plan.machine.gpus if gpu.index == chosen.gpus[0])


def load_engine(
    plan: Plan, directory: "EngineDirectory", backend: "Backend", progress: Progress
) -> "Engine":
    """The engine with its weights and KV pool in memory.

    Weights that turn out to be damaged as they are read are built again, in the same place, if it
    is in the cache. Raises ChecksumError for others.
    """
    caching = plan.settings.enable_kv_cache_reuse
    try:
        return backend.open(directory, progress, prefix_caching=caching)
    except ChecksumError as error:
        if not directory.path.is_relative_to(plan.settings.cache_path):
            raise
        _log.warning("%s It is built again.", error)
        directory.discard_weights()
    store = Store(plan.settings.cache_path, offline=plan.settings.offline)
    rebuilt = prepare_engine(plan, store, backend, progress, home=directory.path)
    return backend.open(rebuilt, progress, prefix_caching=caching)
