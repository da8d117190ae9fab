"""What computes a decoder's dense layers on a GPU: nimlite's own kernels, which go by the name of
torch, or plans of TensorRT, which must agree with them first."""

import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from nimlite.build.quality import max_relative_error
from nimlite.build.selftest import self_test
from nimlite.engine.evaluate import Evaluation
from nimlite.errors import BuildError, SelfTestError, SettingError
from nimlite.kernels.base import Kernels
from nimlite.layers.decoder import Decoder
from nimlite.layers.linear import Weights
from nimlite.layers.model import Model
from nimlite.models.spec import ModelSpec
from nimlite.observe.progress import Progress
from nimlite.profiles.manifest import Precision, Profile
from nimlite.settings.values import DenseBackend
from nimlite.store.inventory import PLANS_FILE
from nimlite.tensorrt.decoder import (
    Bind,
    RunSegment,
    SegmentedDecoder,
    Tensors,
    segment_weights,
)
from nimlite.tensorrt.executor import PlanRefusedError, PlanRuntime, load_executors
from nimlite.tensorrt.plans import (
    PlanSet,
    build_plans,
    read_plans,
    wanted_plans,
)
from nimlite.tensorrt.runtime import PACKAGES, UnavailableError, find_runtime
from nimlite.tensorrt.segment import Kind, WeightFormat
from nimlite.tensorrt.target import Capability
from nimlite.tensorrt.weights import binder

TORCH = "torch"
_SMOKE_LENGTHS = (1, 16, 80)
"""Tokens of the smoke run's texts: each is for another optimization profile."""
_AS_ROUNDED_AS = {
    Precision.INT8_WO: Precision.BF16,
    Precision.INT4_AWQ: Precision.BF16,
    Precision.INT4_GPTQ: Precision.BF16,
}
"""Both sides of the smoke run have the same weights: where these alone are rounded, only what the
activations' type costs may be between them."""
_log = logging.getLogger(__name__)

Dense = Callable[[Decoder], Model]
"""Gives the decoder with its dense layers computed by something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseLayers:
    """The choice for one profile on one GPU."""

    wanted: DenseBackend | None
    """None: plans where the engine has some."""
    profile: Profile
    capability: Capability
    device: torch.device
    stream: Callable[[], int]
    """The handle of the stream that work goes to now."""
    packages: Sequence[str] = PACKAGES
    binder: Callable[[WeightFormat, int], Bind] = binder
    """How weights of a format, in groups of at most so many, become the plans' inputs."""

    @classmethod
    def on(
        cls, device: torch.device, profile: Profile, wanted: DenseBackend | None
    ) -> "DenseLayers":
        """On a GPU of this machine."""
        return cls(
            wanted=wanted,
            profile=profile,
            capability=torch.cuda.get_device_capability(device),
            device=device,
            stream=lambda: torch.cuda.current_stream(device).cuda_stream,
        )

    def named(self, spec: ModelSpec) -> str:
        """What a new engine is built for, as far as it shapes the engine: torch, or its plans.

        Raises SettingError where TensorRT was asked for and can't run the model here.
        """
        plans = self._wanted(spec)
        return TORCH if plans is None else str(plans)

    def prepare(self, spec: ModelSpec, directory: Path, progress: Progress) -> None:
        """Build the plans of a new engine into its directory, where it has some.

        Raises SettingError as above, and BuildError for what TensorRT refuses, where it was asked
        for.
        """
        plans = self._wanted(spec)
        if plans is None:
            return
        trt = find_runtime(self.capability, self.packages)
        try:
            with progress.task("Build TensorRT's plans", None, ""):
                build_plans(trt, plans, spec, directory)
        except BuildError as error:
            if self.wanted is DenseBackend.TENSORRT:
                raise
            _log.warning("%s", error)

    def choose(
        self,
        directory: Path,
        weights: Weights,
        load: Callable[[], Decoder],
        kernels: Kernels,
        compiled: Path,
        progress: Progress,
    ) -> Dense:
        """The engine's plans if they are wanted and agree with the decoder that `load` gives; else
        the decoder itself runs. A line in the log says which, and why.

        `weights`: the engine's. `compiled`: a file of what TensorRT compiles for the GPU, made and
        used again. Raises SettingError where TensorRT was asked for and does not run.
        """
        wanted = self.wanted
        if wanted is None and (directory / PLANS_FILE).exists():
            wanted = DenseBackend.AUTO
        if wanted in (None, DenseBackend.TORCH):
            return _unchanged
        try:
            with progress.task("Try TensorRT's plans", None, ""):
                decoder = load()
                plans = read_plans(directory, self._possible(decoder.spec))
                dense, runtime = self._load(directory, plans, decoder.spec, weights, compiled)
                error = self._smoke_run(dense, decoder, kernels)
                runtime.require_recordable()
        except (UnavailableError, PlanRefusedError) as refusal:
            if wanted is DenseBackend.TENSORRT:
                raise _asked_for(refusal) from refusal
            _log.warning("torch runs the dense layers: %s.", _clause(refusal))
            return _unchanged
        _keep(compiled, runtime.compiled)
        _log.info(
            "%s %s runs the dense layers: in its smoke run the logits differed from torch's by"
            " %.2g.",
            plans.module,
            plans.version,
            error,
        )
        return dense

    def _wanted(self, spec: ModelSpec) -> PlanSet | None:
        if self.wanted in (None, DenseBackend.TORCH):
            return None
        try:
            return self._possible(spec)
        except UnavailableError as error:
            if self.wanted is DenseBackend.TENSORRT:
                raise _asked_for(error) from error
            return None

    def _possible(self, spec: ModelSpec) -> PlanSet:
        return wanted_plans(spec, self.profile, self.capability, self.packages)

    def _load(
        self, directory: Path, plans: PlanSet, spec: ModelSpec, weights: Weights, compiled: Path
    ) -> tuple[Dense, PlanRuntime]:
        known = compiled.read_bytes() if compiled.exists() else b""
        trt = find_runtime(self.capability, self.packages)
        runtime = PlanRuntime(trt, self.device, self.stream, known)
        parts = {segment.kind: segment for segment in plans.segments(spec)}
        bound = segment_weights(parts, weights, self.binder(plans.weights, plans.max_group))
        executors = load_executors(
            runtime,
            {
                kind: (segment, (directory / plans.files[kind]).read_bytes())
                for kind, segment in parts.items()
            },
        )
        return partial(_segmented, executors, bound), runtime

    def _smoke_run(self, dense: Dense, decoder: Decoder, kernels: Kernels) -> float:
        """How far the logits are from those of `decoder`, relatively. Raises UnavailableError for
        more than rounding costs."""
        precision = self.profile.precision
        generator = torch.Generator().manual_seed(0)
        spec = decoder.spec
        texts = [
            torch.randint(spec.vocab_size, (length,), generator=generator).tolist()
            for length in _SMOKE_LENGTHS
            if length <= min(self.profile.max_num_tokens, spec.max_positions)
        ]
        engine, reference = Evaluation(dense(decoder), kernels), Evaluation(decoder, kernels)
        try:
            error = self_test(engine, reference, texts).relative_error
        except SelfTestError as failure:
            raise UnavailableError(f"its smoke run failed: {failure}") from failure
        bound = max_relative_error(_AS_ROUNDED_AS.get(precision, precision))
        if not error <= bound:
            raise UnavailableError(
                f"its smoke run failed: the logits differ from torch's by {error:.2g}, and"
                f" {bound:.2g} is allowed in {precision}"
            )
        return error


def _segmented(
    run: Mapping[Kind, RunSegment], weights: tuple[Tensors, ...], decoder: Decoder
) -> Model:
    return SegmentedDecoder(decoder=decoder, run=run, weights=weights)


def _unchanged(decoder: Decoder) -> Model:
    return decoder


def _keep(file: Path, content: bytes) -> None:
    """For the next start, where the directory can be written."""
    if not content:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # in one step: another process may read it
        new = file.with_name(f"{file.name}.{uuid.uuid4().hex}")
        new.write_bytes(content)
        new.replace(file)
    except OSError as error:
        _log.warning("%s can't be written: TensorRT compiles at every start (%s).", file, error)


def _clause(error: Exception) -> str:
    return str(error).removesuffix(".")


def _asked_for(error: Exception) -> SettingError:
    return SettingError(
        "The backend tensorrt was asked for, but TensorRT can't run the dense layers here:"
        f" {_clause(error)}. NIM_BACKEND=auto (or --backend auto) takes nimlite's own kernels"
        " (torch) where it does not run."
    )
