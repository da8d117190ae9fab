"""Plans that TensorRT for RTX really builds, and what it refuses."""

from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import tensorrt_rtx as trt

from nimlite.errors import BuildError, TargetError
from nimlite.models.spec import ModelSpec
from nimlite.tensorrt.network import data_type, define
from nimlite.tensorrt.plan import PlanRequest, build_plan, profiles
from nimlite.tensorrt.segment import ActivationType, Segment, WeightFormat, segments
from nimlite.tensorrt.target import Capability, require_buildable, supported_capabilities

SPEC = ModelSpec(
    architecture="LlamaForCausalLM",
    num_layers=3,
    hidden_size=256,
    num_heads=8,
    num_kv_heads=2,
    head_dim=32,
    intermediate_size=512,
    vocab_size=320,
    max_positions=512,
    norm_eps=1e-5,
)
TARGET_BITS = {(8, 0): 0x02, (8, 9): 0x08, (12, 0): 0x10}
"""Each target's bit in byte 32 of a plan, which names the GPUs that it is for."""


PRECISIONS: list[tuple[ActivationType, WeightFormat]] = [
    ("bf16", "dense"),
    ("fp16", "dense"),
    ("bf16", "int8"),
    ("bf16", "fp8"),
    ("bf16", "fp8_static"),
]


def parts(dtype: ActivationType = "bf16", weights: WeightFormat = "dense") -> dict[str, Segment]:
    made = segments(SPEC, dtype=dtype, weights=weights, max_tokens=256, max_logit_rows=48)
    return {part.kind: part for part in made}


@pytest.mark.parametrize(
    ("dtype", "weights", "target"),
    [
        (dtype, weights, target)
        for dtype, weights in PRECISIONS
        for target in TARGET_BITS
        if not weights.startswith("fp8") or target >= (8, 9)
    ],
)
def test_every_segment_is_built_for_every_target(
    dtype: str, weights: str, target: Capability
) -> None:
    for segment in parts(dtype, weights).values():
        plan = build_plan(trt, PlanRequest(segment=segment, targets=(target,)))
        assert plan[32] == TARGET_BITS[target]


def test_a_plan_holds_no_weights() -> None:
    """Llama-3-8B's layers have 436 MB of them."""
    spec = replace(SPEC, hidden_size=4096, num_heads=32, num_kv_heads=8, head_dim=128)
    segment = replace(parts()["middle"], spec=replace(spec, intermediate_size=14336))
    assert len(build_plan(trt, PlanRequest(segment=segment, targets=((8, 0),)))) < 8e6


def test_one_plan_serves_several_targets() -> None:
    request = PlanRequest(segment=parts()["middle"], targets=((8, 9), (12, 0)))
    assert build_plan(trt, request)[32] == 0x08 | 0x10


def defined(segment: Segment) -> tuple[Any, Any]:
    """The builder and the network that plans of `segment` are built of."""
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    flag = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    network = builder.create_network(1 << int(flag))
    define(trt, network, segment)
    return builder, network


@pytest.mark.parametrize("kind", ["first", "middle", "last"])
@pytest.mark.parametrize("weights", ["dense", "int8", "fp8", "fp8_static"])
def test_a_network_has_the_inputs_and_outputs_of_its_segment(kind: str, weights: str) -> None:
    segment = parts("fp16", weights)[kind]
    _, network = defined(segment)
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    for ports, tensors in ((segment.inputs, inputs), (segment.outputs, outputs)):
        expected = [(port.name, data_type(trt, port.dtype), port.shape) for port in ports]
        assert [(t.name, t.dtype, tuple(t.shape)) for t in tensors] == expected


def test_what_goes_into_a_middle_segment_and_comes_out() -> None:
    segment = parts("bf16", "fp8")["middle"]
    given = {port.name: (port.dtype, port.shape) for port in segment.inputs}
    assert given == {
        "attended": ("bf16", (-1, 256)),
        "residual": ("bf16", (-1, 256)),
        "output": ("fp8", (256, 256)),
        "output.scales": ("fp32", (256,)),
        "post_norm": ("fp32", (256,)),
        "gate_up": ("fp8", (1024, 256)),
        "gate_up.scales": ("fp32", (1024,)),
        "down": ("fp8", (256, 512)),
        "down.scales": ("fp32", (256,)),
        "positions": ("int64", (-1,)),
        "cos": ("fp32", (512, 16)),
        "sin": ("fp32", (512, 16)),
        "input_norm": ("fp32", (256,)),
        "qkv": ("fp8", (384, 256)),
        "qkv.scales": ("fp32", (384,)),
    }
    made = {port.name: (port.dtype, port.shape) for port in segment.outputs}
    assert made == {
        "residual_out": ("bf16", (-1, 256)),
        "q": ("bf16", (-1, 8, 32)),
        "k": ("bf16", (-1, 2, 32)),
        "v": ("bf16", (-1, 2, 32)),
    }


@pytest.mark.parametrize(
    ("kind", "ranges"),
    [("middle", [(1, 1, 1), (2, 16, 64), (65, 256, 256)]), ("last", [(1, 1, 1), (2, 16, 48)])],
)
def test_profiles_are_for_one_token_for_decoding_and_for_prompts(
    kind: str, ranges: list[tuple[int, int, int]]
) -> None:
    segment = parts()[kind]
    builder, network = defined(segment)
    made = profiles(builder, segment)
    assert len(made) == len(ranges)
    for profile, sizes in zip(made, ranges, strict=True):
        for index in range(network.num_inputs):
            port = network.get_input(index)
            if -1 in port.shape:
                shapes = [tuple(shape) for shape in profile.get_shape(port.name)]
                assert shapes == [(size, *tuple(port.shape)[1:]) for size in sizes]


def test_fp8_is_refused_where_tensor_cores_have_none() -> None:
    request = PlanRequest(segment=parts("bf16", "fp8")["middle"], targets=((8, 0), (8, 9)))
    with pytest.raises(TargetError) as refusal:
        build_plan(trt, request)
    assert str(refusal.value) == (
        "Compute capability 8.0 can't multiply FP8, only 8.9 and later: use bf16, fp16 or int8 "
        "weights there."
    )


def test_bf16_is_refused_where_tensor_cores_have_none() -> None:
    with pytest.raises(TargetError, match=r"7\.5 can't multiply BF16, only 8\.0 and later: .*fp16"):
        build_plan(trt, PlanRequest(segment=parts()["middle"], targets=((7, 5),)))


def test_hopper_is_refused_by_rtx_which_has_no_plans_for_it() -> None:
    with pytest.raises(TargetError) as refusal:
        build_plan(trt, PlanRequest(segment=parts()["middle"], targets=((9, 0),)))
    assert str(refusal.value) == (
        f"TensorRT-RTX {trt.__version__} can't build for compute capability 9.0, only for 7.5, "
        "8.0, 8.6, 8.9, 12.0, 12.1: use the torch backend there, or the package tensorrt."
    )
    assert (9, 0) not in supported_capabilities(trt)


def test_a_plan_is_for_some_gpu() -> None:
    with pytest.raises(TargetError, match="give one compute capability"):
        build_plan(trt, PlanRequest(segment=parts()["middle"], targets=()))


def test_tensorrt_itself_builds_for_one_gpu_at_a_time() -> None:
    with pytest.raises(TargetError, match=r"not for 8\.9, 9\.0 at once: build once on each, or"):
        require_buildable(ModuleType("tensorrt"), ((8, 9), (9, 0)), "bf16", "dense")


def test_what_tensorrt_refuses_is_told_in_its_words() -> None:
    """An odd head is none that halves can be rotated in."""
    segment = replace(parts()["first"], spec=replace(SPEC, head_dim=33))
    with pytest.raises(BuildError, match="did not build the first segment") as refusal:
        build_plan(trt, PlanRequest(segment=segment, targets=((8, 9),)))
    assert "it gave no reason" not in str(refusal.value)
