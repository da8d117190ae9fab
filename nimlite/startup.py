"""From a model's name to an engine that serves, in plain functions; the commands put them together.

    find_manifest ─► make_plan ─► prepare_kernels ─► prepare_engine ─► load_engine ─► serve
    which model?     which        compiled           fetched, built    weights in     HTTP
                     profile?     once               and proved        memory
    lookup.py                                        preparation.py

Nothing that needs torch is imported before a function needs it: `nimlite probe` stays fast.
"""

import logging
import os
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from nimlite.errors import SelfTestError, SettingError
from nimlite.lookup import is_made
from nimlite.observe.progress import Progress
from nimlite.probe import Machine
from nimlite.probe.machine import Gpu
from nimlite.profiles.manifest import Device, Manifest
from nimlite.profiles.ranks import with_ranks
from nimlite.profiles.selection import Selection, next_precision, select
from nimlite.settings import Settings
from nimlite.settings.values import DenseBackend
from nimlite.store.cache import Store
from nimlite.store.inventory import PLANS_FILE

if TYPE_CHECKING:
    from nimlite.build.target import Packing
    from nimlite.engine.backend import Backend

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


def make_plan(manifest: Manifest, machine: Machine, settings: Settings) -> Plan:
    """Choose the profile. Raises SettingError where none can run, and for another precision than
    weights have that are converted already."""
    made = Path(manifest.artifact.uri)
    if settings.precision and is_made(made):
        (profile,) = manifest.profiles
        if settings.precision != profile.precision:
            raise SettingError(
                f"{settings.named('precision')} is not what {made} holds: its weights are"
                f" {profile.precision}. Give the model itself for another precision."
            )
    if not is_made(made):
        manifest = with_ranks(manifest, settings, has_gpus=bool(machine.gpus))
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
        return GpuBackend(
            profile=serving,
            memory_bytes=chosen.memory.budget,
            index=_gpu_index(plan),
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


def foreseen_dense_layers(plan: Plan) -> str:
    """What will compute the dense layers, as far as it is known before anything is built."""
    from nimlite.tensorrt.runtime import UnavailableError, find_runtime

    wanted = plan.settings.backend
    if wanted is None and (Path(plan.selection.manifest.artifact.uri) / PLANS_FILE).exists():
        wanted = DenseBackend.AUTO
    if wanted in (None, DenseBackend.TORCH):
        return "torch"
    otherwise = "torch" if wanted is DenseBackend.AUTO else "refused"
    if plan.selection.chosen.profile.device is Device.CPU:
        return f"{otherwise}: TensorRT needs an NVIDIA GPU"
    major, minor = _first_gpu(plan).compute_capability.split(".")
    try:
        trt = find_runtime((int(major), int(minor)))
    except UnavailableError as error:
        return f"{otherwise}: {error}"
    return f"{trt.__name__} {trt.__version__}, where its plans agree with torch; else {otherwise}"


def prepare_packing(plan: Plan) -> "Packing":
    """The device of the plan's profile, only to pack weights for it."""
    serving = plan.selection.chosen.serving
    if serving.device is Device.GPU:
        from nimlite.engine.gpu import GpuBackend

        choose_gpu(os.environ, plan)
        return GpuBackend(profile=serving, index=_gpu_index(plan))
    from nimlite.engine.cpu import CpuBackend
    from nimlite.kernels.torch_kernels import TorchKernels

    return CpuBackend(profile=serving, kernels=TorchKernels())


def device_name(plan: Plan) -> str:
    """What an engine depends on: the CPU's only on the instruction set at large."""
    if plan.selection.chosen.profile.device is Device.CPU:
        return f"cpu-{plan.machine.cpu.architecture}"
    gpu = _first_gpu(plan)
    return f"{gpu.name} {gpu.compute_capability}"


def _gpu_index(plan: Plan) -> int:
    """CUDA's number of the chosen GPU: alone to be seen, it is the first."""
    gpu = _first_gpu(plan)
    return 0 if os.environ.get("CUDA_VISIBLE_DEVICES") == gpu.uuid else gpu.index


def _first_gpu(plan: Plan) -> Gpu:
    chosen = plan.selection.chosen
    return next(gpu for gpu in plan.machine.gpus if gpu.index == chosen.gpus[0])
