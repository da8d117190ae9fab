"""Selection: what is chosen, why, and what the user reads when nothing can be."""

from dataclasses import replace
from typing import Any

import pytest
from fakes.machines import GIB, card, host, several
from hypothesis import given, settings
from hypothesis import strategies as st

from nimlite.errors import SettingError
from nimlite.profiles.load import load_manifest, profiles_directory
from nimlite.profiles.manifest import Device, Manifest, Precision
from nimlite.profiles.selection import Fit, rank, select
from nimlite.profiles.support import THIS_VERSION
from nimlite.settings import read_settings

SMOLLM = load_manifest(profiles_directory() / "smollm2-135m.yaml")
LLAMA = load_manifest(profiles_directory() / "llama3-8b.yaml")
FP32 = next(p for p in SMOLLM.profiles if p.precision is Precision.FP32)
EVERY_PRECISION = dict.fromkeys(Device, tuple(Precision))
EVERYTHING = replace(
    THIS_VERSION,
    precisions=EVERY_PRECISION,
    max_tp=8,
    max_pp=8,
)
"""As if every profile could be executed."""


def on_cpu(manifest: Manifest) -> Manifest:
    cpu = tuple(p for p in manifest.profiles if p.device is Device.CPU)
    return replace(manifest, profiles=cpu)


def test_the_best_that_fits_is_chosen_and_every_one_says_why_it_stands_there() -> None:
    selection = select(SMOLLM, host(), read_settings({}))
    assert selection.chosen.profile.precision is Precision.INT4
    assert selection.chosen is selection.candidates[0]
    assert selection.chosen.profile in SMOLLM.profiles
    reasons = [c.reason for c in selection.candidates if c.fit is Fit.RUNNABLE]
    assert len(reasons) == 9
    assert reasons[0].startswith("Predicted on the CPU for 18 stream(s) of 1024/256 tokens: ")
    assert "x as good as nimlite-int8-tp1-pp1-cpu. It needs 0.68 GiB of 14.40 GiB." in reasons[0]
    assert "Nothing else runs after it." in reasons[-1]


@pytest.mark.parametrize(
    "environ",
    [
        {"NIM_TAGS_SELECTOR": "precision=fp32,tp=1"},
        {"NIM_PRECISION": "float32", "NIM_TENSOR_PARALLEL_SIZE": "1"},
        {"NIM_ENGINE_PRECISION": "FP32", "NIM_TAGS_SELECTOR": "pp=1"},
        {"NIM_MODEL_PROFILE": FP32.name},
        {"NIM_MODEL_PROFILE": FP32.id},
        {"NIM_MODEL_PROFILE": FP32.id[:8]},
        {"NIM_MODEL_PROFILE": f"{FP32.id} ({FP32.name})"},
    ],
)
def test_the_user_is_obeyed(environ: dict[str, str]) -> None:
    selection = select(SMOLLM, host([card("H200")]), read_settings(environ))
    assert selection.chosen.profile.precision is Precision.FP32
    assert next(iter(environ)) in selection.chosen.reason
    assert {c.fit for c in selection.candidates[1:]} == {Fit.EXCLUDED}


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"NIM_MODEL_PROFILE": "vllm"}, "names no profile of smollm2-135m. Use one of:\n  "),
        ({"NIM_MODEL_PROFILE": "nimlite"}, "nimlite names no profile"),
        ({"NIM_MODEL_PROFILE": "("}, "names no profile"),
        ({"NIM_TAGS_SELECTOR": "precision=fp9"}, "Its profiles have precision=bf16, precision=fp"),
        ({"NIM_MAX_MODEL_LEN": "8193"}, "Allowed: up to 8192."),
        (
            {"NIM_MODEL_PROFILE": FP32.name, "NIM_TAGS_SELECTOR": "tp=2"},
            "NIM_TAGS_SELECTOR=tp=2 matches no profile",
        ),
        (
            {"NIM_MODEL_PROFILE": FP32.name, "NIM_TAGS_SELECTOR": "precision=bf16"},
            f"NIM_MODEL_PROFILE={FP32.name} and NIM_TAGS_SELECTOR=precision=bf16 contradict",
        ),
        (
            {"NIM_PRECISION": "fp32", "NIM_TAGS_SELECTOR": "precision=bf16"},
            "NIM_PRECISION=fp32 and NIM_TAGS_SELECTOR=precision=bf16 contradict each other",
        ),
        (
            {"NIM_PRECISION": "fp32", "NIM_TENSOR_PARALLEL_SIZE": "2"},
            "NIM_PRECISION=fp32 with NIM_TENSOR_PARALLEL_SIZE=2 matches no profile",
        ),
    ],
)  # fmt: skip
def test_what_can_not_be_obeyed_is_refused_by_name(environ: dict[str, str], sentence: str) -> None:
    with pytest.raises(SettingError) as raised:
        select(SMOLLM, host(), read_settings(environ))
    assert sentence in str(raised.value)


def test_of_two_that_ask_for_a_precision_the_higher_layer_wins() -> None:
    asked = {"NIM_TAGS_SELECTOR": "precision=bf16,device=cpu"}, {"precision": "fp32"}
    assert select(SMOLLM, host(), read_settings(*asked)).chosen.profile == FP32
    asked = {"NIM_PRECISION": "bf16"}, {"tags_selector": "precision=fp32"}
    assert select(SMOLLM, host(), read_settings(*asked)).chosen.profile == FP32


def test_a_profile_that_needs_too_much_names_the_setting_that_lets_it_in() -> None:
    small = host(ram=1.2)
    asked = {"NIM_TAGS_SELECTOR": "precision=fp32", "NIM_MAX_MODEL_LEN": "8192"}
    with pytest.raises(SettingError) as raised:
        select(SMOLLM, small, read_settings(asked))
    assert "It takes a host with 1.41 GiB of memory free (nimlite-fp32-tp1-pp1-cpu)." in str(
        raised.value
    )
    low = next(c for c in rank(SMOLLM, small, read_settings(asked)) if c.remedy)
    remedy = low.remedy or ""
    assert low.reason == (
        "It needs 1.27 GiB for a context of 8192 tokens, and may take 1.08 GiB. "
        f"{remedy} would make it fit."
    )
    name, value = remedy.split("=")
    assert name == "NIM_MAX_MODEL_LEN"
    selection = select(SMOLLM, small, read_settings({**asked, name: value}))
    assert selection.chosen.serving.max_model_len == int(value)
    with pytest.raises(SettingError):
        select(SMOLLM, small, read_settings({**asked, name: str(int(value) + 1)}))
    del asked["NIM_MAX_MODEL_LEN"]  # where nobody asked for a context, it is cut to what fits
    chosen = select(SMOLLM, small, read_settings(asked)).chosen
    assert chosen.serving.max_model_len == int(value)
    assert f"with a context of {value} tokens" in chosen.reason


def test_a_gpu_comes_before_the_cpu_and_only_where_it_can_compute_the_precision() -> None:
    chosen = select(LLAMA, host([card("H200")], ram=64), read_settings({})).chosen
    assert chosen.profile.name == "nimlite-fp8-tp1-pp1-h200-throughput"
    assert (chosen.gpus, chosen.memory.budget) == ((0,), int(126 * GIB))
    ranked = rank(LLAMA, host([card("A10")], ram=64), read_settings({}))
    assert ranked[0].profile.precision is Precision.INT8_SQ
    fp8 = next(c for c in ranked if c.profile.precision is Precision.FP8)
    assert fp8.reason == "fp8 needs compute capability 8.9; this machine has NVIDIA A10 (8.6)."
    without = rank(LLAMA, host(ram=64), read_settings({}))
    assert without[0].profile.device is Device.CPU
    assert without[-1].fit is Fit.INCOMPATIBLE
    assert any("There is no NVIDIA driver on this machine." in c.reason for c in without)


def test_what_this_version_can_not_execute_says_so() -> None:
    ranked = rank(LLAMA, host(several("H200", 8)), read_settings({}))
    reasons = {c.profile.name: c.reason for c in ranked if c.fit is Fit.INCOMPATIBLE}
    assert reasons["nimlite-fp8-tp2-pp1-gpu-latency"] == (
        "This version can't split a model tp=2, pp=1 yet, only up to tp=1, pp=1."
    )
    old = replace(THIS_VERSION, precisions={Device.CPU: ["int8"], Device.GPU: ["bf16"]})
    ranked = rank(LLAMA, host(several("H200", 8)), read_settings({}), old)
    reasons = {c.profile.name: c.reason for c in ranked if c.fit is Fit.INCOMPATIBLE}
    assert reasons["nimlite-int4_awq-tp1-pp1-gpu-latency"] == (
        "This version can't compute int4_awq on a GPU yet, only bf16."
    )


def test_the_pool_is_the_profiles_or_fills_the_share_that_was_named() -> None:
    default = select(SMOLLM, host(), read_settings({})).chosen.memory
    assert default.kv_cache <= 512 << 20 < default.kv_cache + 16 * 23040
    half = select(SMOLLM, host(), read_settings({"NIM_KVCACHE_PERCENT": "0.5"})).chosen.memory
    assert 0 <= 8 * GIB - half.total < 16 * 23040


@settings(deadline=None)
@given(
    ram=st.floats(0.0, 4.0),
    more=st.floats(0.0, 4.0),
    settings=st.fixed_dictionaries(
        {},
        optional={
            "max_model_len": st.integers(1, 8192),
            "max_batch_size": st.integers(1, 512),
            "max_num_tokens": st.integers(512, 4096),
            "kvcache_percent": st.floats(0.05, 1.0),
        },
    ),
)
def test_more_memory_is_never_worse_and_the_choice_fits(
    ram: float, more: float, settings: dict[str, Any]
) -> None:
    asked = read_settings({}, settings)
    small, large = (rank(SMOLLM, host(ram=r), asked)[0] for r in (ram, ram + more))
    assert large.fit is Fit.RUNNABLE or small.fit is not Fit.RUNNABLE
    if small.fit is Fit.RUNNABLE:
        assert large.score >= small.score * (1 - 1e-9)
        memory = small.memory
        assert memory.total <= memory.budget <= ram * GIB
        assert memory.kv_cache >= memory.kv_minimum
        assert memory.kv_cache == small.serving.kv_cache_bytes
        for name in settings.keys() - {"kvcache_percent"}:
            assert getattr(small.serving, name) == settings[name]


def test_experts_are_held_in_every_precision() -> None:
    mixtral = load_manifest(profiles_directory() / "mixtral-8x7b.yaml")
    ranked = rank(mixtral, host(several("H200", 1)), read_settings({}))
    runnable = {c.profile.precision for c in ranked if c.fit is Fit.RUNNABLE}
    assert {"bf16", "fp8", "int4_awq"} <= runnable
