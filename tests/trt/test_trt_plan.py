"""Plans that TensorRT for RTX really builds, and what it refuses."""

from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import tensorrt_rtx as trt
from fakes.trt_runtime import FakeTensorRT

from nimlite.errors import BuildError, TargetError
from nimlite.models.spec import ModelSpec
from nimlite.tensorrt.network import data_type, define
from nimlite.tensorrt.plan import PlanRequest, TimingCache, build_plan, profiles
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
    ("bf16", "int8_dynamic"),
    ("bf16", "int4"),
    ("bf16", "fp8"),
    ("bf16", "fp8_static"),
]


def parts(dtype: ActivationType = "bf16", weights: WeightFormat = "dense") -> dict[str, Segment]:
    made = segments(SPEC, dtype=dtype, weights=weights, max_tokens=256)
    return {part.kind: part for part in made}


@pytest.mark.parametrize(("dtype", "weights"), PRECISIONS)
@pytest.mark.parametrize("kind", ["first", "middle", "last"])
def test_every_segment_is_built_for_every_target(dtype: str, weights: str, kind: str) -> None:
    since = (8, 9) if weights.startswith("fp8") else (8, 0)
    targets = tuple(target for target in TARGET_BITS if target >= since)
    plan = build_plan(trt, PlanRequest(segment=parts(dtype, weights)[kind], targets=targets))
    assert plan[32] == sum(TARGET_BITS[target] for target in targets)


@pytest.mark.parametrize("target", TARGET_BITS)
def test_a_plan_is_for_the_target_that_was_asked_for(target: Capability) -> None:
    plan = build_plan(trt, PlanRequest(segment=parts()["middle"], targets=(target,)))
    assert plan[32] == TARGET_BITS[target]


def test_a_plan_holds_no_weights() -> None:
    """Llama-3-8B's layers have 436 MB of them."""
    spec = replace(SPEC, hidden_size=4096, num_heads=32, num_kv_heads=8, head_dim=128)
    segment = replace(parts()["middle"], spec=replace(spec, intermediate_size=14336))
    assert len(build_plan(trt, PlanRequest(segment=segment, targets=((8, 0),)))) < 8e6


def defined(segment: Segment) -> tuple[Any, Any]:
    """The builder and the network that plans of `segment` are built of."""
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    flag = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    network = builder.create_network(1 << int(flag))
    define(trt, network, segment)
    return builder, network


@pytest.mark.parametrize("kind", ["first", "middle", "last"])
@pytest.mark.parametrize("weights", ["dense", "int8", "int8_dynamic", "int4", "fp8", "fp8_static"])
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
        "residual": ("fp32", (-1, 256)),
        "output": ("fp8", (256, 256)),
        "output.scales": ("fp32", (256,)),
        "post_norm": ("fp32", (256,)),
        "gate_up": ("fp8", (1024, 256)),
        "gate_up.scales": ("fp32", (1024,)),
        "down": ("fp8", (256, 512)),
        "down.scales": ("fp32", (256,)),
        "input_norm": ("fp32", (256,)),
        "qkv": ("fp8", (384, 256)),
        "qkv.scales": ("fp32", (384,)),
    }
    made = {port.name: (port.dtype, port.shape) for port in segment.outputs}
    assert made == {"residual_out": ("fp32", (-1, 256)), "qkv_out": ("bf16", (-1, 384))}


def test_int4_goes_in_with_each_group_as_a_row() -> None:
    given = {port.name: (port.dtype, port.shape) for port in parts("bf16", "int4")["first"].inputs}
    assert given == {
        "residual": ("fp32", (-1, 256)),
        "input_norm": ("fp32", (256,)),
        "qkv": ("int4", (768, 128)),
        "qkv.scales": ("fp32", (768,)),
        "qkv.offsets": ("fp32", (768,)),
    }


@pytest.mark.parametrize(
    ("max_tokens", "ranges"),
    [(256, [(1, 1, 1), (2, 16, 64), (65, 256, 256)]), (48, [(1, 1, 1), (2, 16, 48)])],
)
def test_profiles_are_for_one_token_for_decoding_and_for_prompts(
    max_tokens: int, ranges: list[tuple[int, int, int]]
) -> None:
    segment = replace(parts()["middle"], max_tokens=max_tokens)
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
    """A model without features is none."""
    segment = replace(parts()["first"], spec=replace(SPEC, hidden_size=0))
    with pytest.raises(BuildError, match="did not build the first segment") as refusal:
        build_plan(trt, PlanRequest(segment=segment, targets=((8, 9),)))
    assert "it gave no reason" not in str(refusal.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_tensorrt_measures_goes_from_build_to_build() -> None:
    """`tensorrt` itself measures kernels. Its binding's timing cache is there in tensorrt_rtx too,
    where it stays empty: what is kept is its header."""
    module = FakeTensorRT("tensorrt")
    request = PlanRequest(segment=parts()["last"], targets=((8, 9),))
    timing = TimingCache()
    plans = [build_plan(module, request, timing)]
    assert timing.content
    kept = timing.content
    plans.append(build_plan(module, request, timing))
    assert timing.content == kept and plans[0] == plans[1]
    rtx = TimingCache()
    build_plan(trt, request, rtx)
    assert rtx.content == b""
