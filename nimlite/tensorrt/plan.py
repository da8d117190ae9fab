"""A segment, compiled to a plan."""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

from nimlite.errors import BuildError
from nimlite.tensorrt.network import LayerRefusedError, define
from nimlite.tensorrt.recorder import error_recorder
from nimlite.tensorrt.segment import TOKENS, Segment
from nimlite.tensorrt.target import RTX, Capability, require_buildable, text


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """What a plan is built of and for."""

    segment: Segment
    targets: tuple[Capability, ...]
    """TensorRT for RTX: any of its list, present or not. TensorRT: the GPU at hand."""


@dataclass(slots=True)
class TimingCache:
    """What TensorRT has measured of kernels on this GPU, so that it need not measure it again.
    TensorRT for RTX measures nothing when it builds."""

    content: bytes = b""


def build_plan(trt: ModuleType, request: PlanRequest, timing: TimingCache | None = None) -> bytes:
    """The plan of a segment, by the module `tensorrt` or `tensorrt_rtx`. What is measured for it is
    added to `timing`.

    Raises TargetError for GPUs that can't be built for, and BuildError with TensorRT's own words
    for what it refuses else.
    """
    require_buildable(trt, request.targets, request.segment.dtype, request.segment.weights)
    recorder = error_recorder(trt)
    try:
        plan = _build(trt, request, recorder, timing or TimingCache())
    except LayerRefusedError:
        plan = None
    if plan is None:
        targets = ", ".join(text(target) for target in request.targets)
        raise BuildError(
            f"{trt.__name__} {trt.__version__} did not build the {request.segment.kind} segment "
            f"for {targets}: {'; '.join(recorder.descriptions) or 'it gave no reason'}."
        )
    return bytes(plan)


def _build(trt: ModuleType, request: PlanRequest, recorder: Any, timing: TimingCache) -> Any:
    """The plan's memory, or None: `recorder` then knows why."""
    builder = trt.Builder(trt.Logger(trt.Logger.INTERNAL_ERROR))
    builder.error_recorder = recorder
    flag = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    network = builder.create_network(1 << int(flag))
    network.error_recorder = recorder
    constants = define(trt, network, request.segment)
    config = builder.create_builder_config()
    for profile in profiles(builder, request.segment):
        config.add_optimization_profile(profile)
    if trt.__name__ == RTX:
        config.num_compute_capabilities = len(request.targets)
        for index, (major, minor) in enumerate(request.targets):
            name = f"SM{major}{minor}"
            config.set_compute_capability(getattr(trt.ComputeCapability, name), index)
    else:
        measured = config.create_timing_cache(timing.content)
        config.set_timing_cache(measured, False)
    plan = builder.build_serialized_network(network, config)
    del constants  # not before: the network only points at them
    if trt.__name__ != RTX:
        timing.content = bytes(measured.serialize())
    return plan


def profiles(builder: Any, segment: Segment) -> list[Any]:
    """One optimization profile for each of the segment's token ranges."""
    made = []
    for sizes in segment.token_ranges:
        profile = builder.create_optimization_profile()
        for port in segment.inputs:
            if TOKENS in port.shape:
                profile.set_shape(port.name, *((size, *port.shape[1:]) for size in sizes))
        made.append(profile)
    return made
