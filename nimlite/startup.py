"""From a model's name to an engine that serves, in plain functions; the commands put them together.

    find_manifest ─► make_plan ─► prepare_kernels ─► prepare_engine ─► load_engine ─► serve
    which model?     which        compiled           fetched, built    weights in     HTTP
                     profile?     once               and proved        memory

Nothing that needs torch is imported before a function needs it: `nimlite probe` stays fast.
"""

import difflib
import json
import logging
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nimlite.errors import SettingError
from nimlite.observe.progress import Progress
from nimlite.probe import Machine
from nimlite.profiles.generate import generate_manifest
from nimlite.profiles.load import load_manifests, profiles_directory
from nimlite.profiles.manifest import Artifact, Device, Manifest
from nimlite.profiles.selection import Selection, select
from nimlite.profiles.shape import ModelShape
from nimlite.settings import Settings
from nimlite.store.cache import Store
from nimlite.store.model_store import read_model_store

if TYPE_CHECKING:
    from nimlite.build.builder import Executor
    from nimlite.build.engine_dir import EngineDirectory
    from nimlite.engine.engine import Engine
    from nimlite.kernels.base import Kernels

DEFAULT_FAMILY = "smollm2-135m"
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
    if "://" not in name and not path.exists():
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
    from nimlite.build.checkpoint import open_checkpoint
    from nimlite.build.engine_dir import ENGINE_FILE, open_engine
    from nimlite.models.registry import read_spec

    if stored := read_model_store(path):
        return stored
    if (path / ENGINE_FILE).exists():
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
    shape = ModelShape.of(read_spec(open_checkpoint(path).config))
    return generate_manifest(
        path.stem if path.is_file() else path.name, shape, Artifact(uri=str(path))
    )


def _manifest_of_uri(uri: str, store: Store, progress: Progress) -> Manifest:
    """Of a Hub repository only the config is fetched; of another source all, for its config is
    inside."""
    from nimlite.build.checkpoint import open_checkpoint
    from nimlite.models.registry import read_spec

    address, _, query = uri.partition("?")
    name = address.partition("://")[2].partition("@")[0].removesuffix(".gguf")
    if address.startswith("hf://") and not query:
        config = store.fetch(Artifact(uri=f"{uri}?file=config.json"), progress)
        spec = read_spec(json.loads(config.read_text()))
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


def prepare_kernels(plan: Plan, store: Store, progress: Progress) -> "Kernels":
    """The operations of this machine: found in the cache or compiled, or plain torch."""
    from nimlite.kernels import cpu_kernels

    head_dim = plan.selection.manifest.shape.head_dim
    with progress.task("Prepare the kernels", None, ""):
        selected = cpu_kernels(store.kernels, plan.num_threads, head_dim)
    _log.info("%s", selected.reason)
    return selected.kernels


def prepare_engine(
    plan: Plan, store: Store, kernels: "Kernels", progress: Progress, home: Path | None = None
) -> "EngineDirectory":
    """The engine of the plan: found, or fetched, built and proved; a damaged one is built again.

    `home`: where to build it instead of in the cache. Raises what the store and the build raise.
    """
    from nimlite.build.builder import BuildJob, build_engine
    from nimlite.build.checkpoint import open_checkpoint
    from nimlite.build.engine_dir import ENGINE_FILE, open_engine

    manifest, chosen = plan.selection.manifest, plan.selection.chosen
    path = store.fetch(manifest.artifact, progress)
    if (path / ENGINE_FILE).exists():
        return open_engine(path)
    job = BuildJob(
        checkpoint=open_checkpoint(path),
        profile=chosen.profile,
        device=_device_name(plan),
        model_name=manifest.display_name,
        served_name=manifest.served_name,
        source=manifest.artifact.uri,
    )
    home = home or store.engine_path(manifest.family, job.key)
    return build_engine(job, home, progress, _executor(plan, kernels))


def _device_name(plan: Plan) -> str:
    """What an engine depends on: the CPU's only on the instruction set at large."""
    if plan.selection.chosen.profile.device is Device.CPU:
        return f"cpu-{plan.machine.cpu.architecture}"
    return f"{plan.machine.gpus[0].name} {plan.machine.gpus[0].compute_capability}"


def load_engine(
    plan: Plan, directory: "EngineDirectory", kernels: "Kernels", progress: Progress
) -> "Engine":
    """The engine with its weights and KV pool in memory."""
    from nimlite.engine.engine import Engine

    with progress.task("Load the weights", None, ""):
        return Engine.open(
            directory,
            kernels=kernels,
            profile=plan.selection.chosen.serving,
            prefix_caching=plan.settings.enable_kv_cache_reuse,
        )


def _executor(plan: Plan, kernels: "Kernels") -> "Executor":
    """How the build's self-test computes: as the engine will, text by text."""
    from nimlite.engine.engine import kv_layout
    from nimlite.engine.evaluate import prompt_logits
    from nimlite.layers.decoder import Decoder

    profile = plan.selection.chosen.serving

    def execute(spec: Any, weights: Any) -> Any:
        model = Decoder.load(spec, weights, kv_layout(spec, profile))
        return lambda prompts: (prompt_logits(model, kernels, prompt) for prompt in prompts)

    return execute
