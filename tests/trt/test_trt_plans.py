"""An engine directory's plans, and which of them serve."""

from dataclasses import replace
from pathlib import Path

import pytest
import tensorrt_rtx as trt
from fakes.trt_network import TINY_SPEC

from nimlite.models.spec import ModelSpec
from nimlite.profiles.manifest import Device, Precision, Profile
from nimlite.tensorrt import plan_cache, segment
from nimlite.tensorrt.plans import PlanSet, build_plans, read_plans, wanted_plans
from nimlite.tensorrt.runtime import UnavailableError

RTX = ("tensorrt_rtx",)
PROFILE = Profile(
    id="test",
    family="test",
    device=Device.GPU,
    precision=Precision.BF16,
    kv_precision=Precision.BF16,
    kv_cache_bytes=None,
    max_model_len=512,
    max_batch_size=16,
    max_num_tokens=100,
    block_size=16,
)


def wanted(**changes: object) -> PlanSet:
    return wanted_plans(TINY_SPEC, replace(PROFILE, **changes), (8, 9), RTX)


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("planned")
    build_plans(trt, wanted(), TINY_SPEC, directory)
    return directory


@pytest.mark.parametrize(
    ("precision", "formats"),
    [
        (Precision.BF16, ("bf16", "dense")),
        (Precision.FP16, ("fp16", "dense")),
        (Precision.FP8, ("bf16", "fp8")),
        (Precision.INT8_SQ, ("bf16", "int8_dynamic")),
        (Precision.INT8_WO, ("bf16", "int8")),
        (Precision.INT4_AWQ, ("bf16", "int4")),
        (Precision.INT4_GPTQ, ("bf16", "int4")),
    ],
)
def test_plans_hold_weights_as_the_profile_does(
    precision: Precision, formats: tuple[str, str]
) -> None:
    plans = wanted(precision=precision)
    assert (plans.dtype, plans.weights) == formats
    assert (plans.module, plans.version, plans.max_tokens) == ("tensorrt_rtx", trt.__version__, 128)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"precision": Precision.INT8},
            "its plans hold weights in bf16, fp16, fp8, int8_sq, int8_wo, int4_awq, int4_gptq, not"
            " in int8",
        ),
        ({"tp": 2}, "its plans run on one GPU, and this profile has several"),
    ],
)
def test_what_plans_can_not_do_is_said(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(UnavailableError) as refusal:
        wanted(**changes)
    assert str(refusal.value) == reason


def test_small_models_have_small_groups_of_int4() -> None:
    small = wanted(precision=Precision.INT4_AWQ)
    assert (small.max_group, "int4 weights in groups of 32, steps" in str(small)) == (32, True)
    assert small.segments(TINY_SPEC)[0].group_size(64) == 32
    large = replace(TINY_SPEC, hidden_size=8192, vocab_size=128000, intermediate_size=8192)
    profile = replace(PROFILE, precision=Precision.INT4_AWQ)
    assert wanted_plans(large, profile, (8, 9), RTX).max_group == 128


def test_what_the_gpu_can_not_multiply_is_said() -> None:
    with pytest.raises(UnavailableError) as refusal:
        wanted_plans(TINY_SPEC, replace(PROFILE, precision=Precision.FP8), (8, 0), RTX)
    assert str(refusal.value) == (
        "Compute capability 8.0 can't multiply FP8, only 8.9 and later: use bf16, fp16 or int8"
        " weights there"
    )


def test_what_the_model_has_beyond_a_llama_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As if the norm's epsilon were new in specs."""
    monkeypatch.setattr(segment, "SHAPING", segment.SHAPING - {"norm_eps"})
    with pytest.raises(UnavailableError, match=r"know no LlamaForCausalLM with norm_eps$"):
        wanted()


def test_plans_lie_in_the_engine_directory_and_are_built_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "older.plan").write_bytes(b"plan")
    built = build_plans(trt, wanted(), TINY_SPEC, tmp_path)
    assert built.files.keys() == {"first", "middle", "last"}
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {*built.files.values(), "plans.json"}
    assert read_plans(tmp_path, wanted()) == built
    monkeypatch.setattr(plan_cache, "build_plan", None)
    assert build_plans(trt, wanted(), TINY_SPEC, tmp_path) == built


def test_a_decoder_of_one_layer_has_two_plans(tmp_path: Path) -> None:
    spec: ModelSpec = replace(TINY_SPEC, num_layers=1)
    assert build_plans(trt, wanted(), spec, tmp_path).files.keys() == {"first", "last"}


def test_plans_serve_smaller_steps_and_no_larger_ones(planned: Path) -> None:
    assert read_plans(planned, wanted(max_num_tokens=16)).max_tokens == 128
    with pytest.raises(UnavailableError) as refusal:
        read_plans(planned, wanted(max_num_tokens=129))
    assert str(refusal.value) == (
        f"the engine's plans are of tensorrt_rtx {trt.__version__} for compute capability 8.9, bf16"
        " with dense weights, steps of up to 128 tokens, and those wanted of tensorrt_rtx"
        f" {trt.__version__} for compute capability 8.9, bf16 with dense weights, steps of up to"
        " 256 tokens"
    )


@pytest.mark.parametrize(
    ("change"), [{"version": "1.8"}, {"capability": (8, 0)}, {"weights": "fp8"}, {"dtype": "fp16"}]
)
def test_plans_of_something_else_do_not_serve(planned: Path, change: dict[str, object]) -> None:
    with pytest.raises(UnavailableError, match="the engine's plans are of"):
        read_plans(planned, replace(wanted(), **change))


def test_an_engine_without_plans_says_so(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"^the engine was built without plans$"):
        read_plans(tmp_path, wanted())
    (tmp_path / "plans.json").write_text("{")
    with pytest.raises(UnavailableError, match=r"plans\.json is of another version of nimlite$"):
        read_plans(tmp_path, wanted())
