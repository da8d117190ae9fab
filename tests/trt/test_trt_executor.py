"""Plans behind TensorRT's runtime: what is bound, and what is refused."""

from dataclasses import replace

import pytest
import tensorrt_rtx as trt
import torch
from fakes.trt_network import TINY_SPEC, InterpretedSegment
from fakes.trt_runtime import BINDING, REFUSAL, STREAM, FakeTensorRT

from nimlite.tensorrt.executor import TORCH_TYPES, PlanRefusedError, PlanRuntime, load_executors
from nimlite.tensorrt.plan import PlanRequest, build_plan
from nimlite.tensorrt.segment import TOKENS, Port, Segment
from nimlite.tensorrt.target import supported_capabilities

CPU = torch.device("cpu")
MIDDLE = Segment(kind="middle", spec=TINY_SPEC, dtype="bf16", max_tokens=128)
LAST = replace(MIDDLE, kind="last")


def runtime_on(module: FakeTensorRT, compiled: bytes = b"") -> PlanRuntime:
    return PlanRuntime(module, CPU, lambda: STREAM, compiled)


@pytest.fixture
def module() -> FakeTensorRT:
    fake = FakeTensorRT()
    fake.segments = {b"middle": MIDDLE, b"last": LAST}
    return fake


def random_inputs(segment: Segment, num_tokens: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(num_tokens)
    return {port.name: _random(port, num_tokens) for port in segment.inputs}


def _random(port: Port, num_tokens: int) -> torch.Tensor:
    shape = [num_tokens if size == TOKENS else size for size in port.shape]
    dtype = TORCH_TYPES[port.dtype]
    if port.dtype in ("int8", "int4"):
        shape[-1] //= 2 if port.dtype == "int4" else 1
        return torch.randint(0, 100, shape, dtype=dtype)
    return torch.randn(shape).mul(0.1).to(dtype)


def test_the_fake_has_no_method_that_the_binding_has_not() -> None:
    for fake, real in BINDING.items():
        names = {name for name in vars(fake) if not name.startswith("_")}
        assert names and not names - set(dir(real))


@pytest.mark.parametrize("weights", ["dense", "int8", "int8_dynamic", "int4", "fp8", "fp8_static"])
def test_every_input_reaches_its_segment_and_every_output_comes_back(weights: str) -> None:
    segment = replace(MIDDLE, weights=weights)
    module = FakeTensorRT()
    module.segments = {b"plan": segment}
    run = load_executors(runtime_on(module), {"middle": (segment, b"plan")})["middle"]
    inputs = random_inputs(segment, 5)
    expected = InterpretedSegment(segment)(inputs)
    found = run(inputs)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_each_number_of_tokens_goes_to_the_context_of_its_profile(module: FakeTensorRT) -> None:
    plans = {"middle": (MIDDLE, b"middle"), "last": (LAST, b"last")}
    executors = load_executors(runtime_on(module), plans)
    for num_tokens in (1, 2, 64, 65, 128):
        executors["middle"](random_inputs(MIDDLE, num_tokens))
    executors["last"](random_inputs(LAST, 3))
    counts = {(c.segment.kind, c.profile): c.token_counts for c in module.contexts}
    assert counts == {
        ("middle", 0): [1],
        ("middle", 1): [2, 64],
        ("middle", 2): [65, 128],
        ("last", 0): [],
        ("last", 1): [3],
        ("last", 2): [],
    }
    each = trt.DynamicShapesKernelSpecializationStrategy
    compiled = [c.config.dynamic_shapes_kernel_specialization_strategy for c in module.contexts[:3]]
    assert compiled == [each.EAGER, each.EAGER, each.NONE]
    managed = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    assert {c.config.strategy for c in module.contexts} == {managed}


def test_what_was_compiled_is_one_cache_that_is_used_again(module: FakeTensorRT) -> None:
    plans = {"middle": (MIDDLE, b"middle"), "last": (LAST, b"last")}
    first = runtime_on(module)
    assert first.compiled == b""
    load_executors(first, plans)
    assert first.compiled == b"compiled"
    assert len({id(context.config.cache) for context in module.contexts}) == 1
    again = runtime_on(module, first.compiled)
    load_executors(again, plans)
    assert again.compiled == b"compiled, again"


def test_tensorrt_itself_has_no_such_cache() -> None:
    module = FakeTensorRT("tensorrt")
    module.segments = {b"middle": MIDDLE}
    runtime = runtime_on(module)
    load_executors(runtime, {"middle": (MIDDLE, b"middle")})
    assert runtime.compiled == b""


def test_a_plan_that_is_refused_says_so_in_tensorrts_words(module: FakeTensorRT) -> None:
    module.refuses = True
    with pytest.raises(PlanRefusedError) as refusal:
        load_executors(runtime_on(module), {"middle": (MIDDLE, b"middle")})
    assert str(refusal.value) == REFUSAL


def test_a_step_that_is_refused_is_an_error(module: FakeTensorRT) -> None:
    runtime = PlanRuntime(module, CPU, iter([STREAM, STREAM, STREAM, 0]).__next__)
    run = load_executors(runtime, {"middle": (MIDDLE, b"middle")})["middle"]
    with pytest.raises(PlanRefusedError, match="it gave no reason"):
        run(random_inputs(MIDDLE, 1))


def test_the_real_runtime_refuses_a_real_plan_where_there_is_no_gpu_for_it() -> None:
    segment = Segment(kind="middle", spec=TINY_SPEC, dtype="fp16", max_tokens=8)
    listed = supported_capabilities(trt)
    plan = build_plan(trt, PlanRequest(segment=segment, targets=listed))
    can_run = torch.cuda.is_available() and torch.cuda.get_device_capability() in listed
    runtime = PlanRuntime(trt, CPU, lambda: 0)
    if can_run:
        assert runtime.deserialize(plan)
    else:
        with pytest.raises(PlanRefusedError, match=r"cudaError|compute capability"):
            runtime.deserialize(plan)


def test_the_real_runtime_refuses_what_is_no_plan() -> None:
    with pytest.raises(PlanRefusedError, match="incompatible serialization version"):
        PlanRuntime(trt, CPU, lambda: 0).deserialize(b"no plan" * 100)
