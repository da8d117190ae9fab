"""Selection: what is chosen, why, and what the user reads when nothing can be."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nimlite.errors import SettingError
from nimlite.probe.machine import Cpu, Disk, Gpu, Machine, Memory, Software
from nimlite.profiles.load import load_manifest, profiles_directory
from nimlite.profiles.manifest import Device, Manifest, Precision
from nimlite.profiles.memory import kv_block_bytes, weight_bytes
from nimlite.profiles.selection import Fit, rank, select
from nimlite.settings import read_settings

SMOLLM = load_manifest(profiles_directory() / "smollm2-135m.yaml")
FP32 = SMOLLM.profiles[3]
GIB = 1 << 30


def machine(ram: float = 16.0, gpus: tuple[float, ...] = ()) -> Machine:
    """A host with `ram` GiB free, and GPUs by their free GiB."""
    return Machine(
        cpu=Cpu(
            model="CPU",
            architecture="x86_64",
            physical_cores=8,
            logical_cores=8,
            affinity_cores=8,
            quota_cores=None,
            features=("avx2",),
        ),
        memory=Memory(total_bytes=int(ram * GIB), available_bytes=int(ram * GIB), limit_bytes=None),
        disk=Disk(path="/", total_bytes=GIB, free_bytes=GIB),
        software=Software(
            os="Linux", nimlite="0", python="3.11", torch="2", driver=None, cuda=None
        ),
        gpus=tuple(
            Gpu(
                index=index,
                name="GPU",
                uuid=f"GPU-{index}",
                pci_device="2335:10de",
                compute_capability="9.0",
                total_bytes=int(free * GIB),
                free_bytes=int(free * GIB),
            )
            for index, free in enumerate(gpus)
        ),
        gpu_problem=None if gpus else "There is no NVIDIA driver on this machine.",
    )


def with_gpu_profile(tp: int = 1) -> Manifest:
    on_gpu = replace(SMOLLM.profiles[2], device=Device.GPU, tp=tp, tags={}).identified()
    return replace(SMOLLM, profiles=(*SMOLLM.profiles, on_gpu))


def test_the_fastest_that_fits_is_chosen_and_the_others_say_why_not() -> None:
    selection = select(SMOLLM, machine(), read_settings({}))
    assert selection.chosen.profile.precision is Precision.INT4
    assert selection.chosen is selection.candidates[0]
    assert selection.chosen.profile in SMOLLM.profiles
    assert selection.chosen.reason.startswith("The fastest that fits: it needs 0.6")
    assert [c.reason for c in selection.candidates][-1] == (
        "It fits, but nimlite-int4-tp1-pp1-cpu is 4.1x as fast."
    )


@pytest.mark.parametrize(
    "environ",
    [
        {"NIM_TAGS_SELECTOR": "precision=fp32,tp=1"},
        {"NIM_MODEL_PROFILE": FP32.name},
        {"NIM_MODEL_PROFILE": FP32.id},
        {"NIM_MODEL_PROFILE": FP32.id[:8]},
        {"NIM_MODEL_PROFILE": f"{FP32.id} ({FP32.name})"},
    ],
)
def test_the_user_is_obeyed(environ: dict[str, str]) -> None:
    selection = select(SMOLLM, machine(), read_settings(environ))
    assert selection.chosen.profile.precision is Precision.FP32
    assert next(iter(environ)) in selection.chosen.reason
    assert {c.fit for c in selection.candidates[1:]} == {Fit.EXCLUDED}


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"NIM_MODEL_PROFILE": "vllm"}, "names no profile of smollm2-135m. Use one of:\n  "),
        ({"NIM_MODEL_PROFILE": "nimlite"}, "nimlite names no profile"),
        ({"NIM_TAGS_SELECTOR": "precision=fp8"}, "Its profiles have device=cpu, llm_engine="),
        ({"NIM_MAX_MODEL_LEN": "8193"}, "Allowed: up to 8192."),
        (
            {"NIM_MODEL_PROFILE": FP32.name, "NIM_TAGS_SELECTOR": "tp=2"},
            "NIM_TAGS_SELECTOR=tp=2 matches no profile",
        ),
        (
            {"NIM_MODEL_PROFILE": FP32.name, "NIM_TAGS_SELECTOR": "precision=bf16"},
            f"NIM_MODEL_PROFILE={FP32.name} and NIM_TAGS_SELECTOR=precision=bf16 contradict",
        ),
    ],
)  # fmt: skip
def test_what_can_not_be_obeyed_is_refused_by_name(environ: dict[str, str], sentence: str) -> None:
    with pytest.raises(SettingError) as raised:
        select(SMOLLM, machine(), read_settings(environ))
    assert sentence in str(raised.value)


def test_a_profile_that_needs_too_much_names_the_setting_that_lets_it_in() -> None:
    small = machine(ram=1.2)
    fp32 = {"NIM_TAGS_SELECTOR": "precision=fp32"}
    with pytest.raises(SettingError) as raised:
        select(SMOLLM, small, read_settings(fp32))
    assert "No profile of smollm2-135m can run here:" in str(raised.value)
    assert "It needs 1.27 GiB for a context of 8192 tokens, and may take 1.08" in str(raised.value)
    remedy = next(c.remedy for c in rank(SMOLLM, small, read_settings(fp32)) if c.remedy)
    name, value = remedy.split("=")
    assert name == "NIM_MAX_MODEL_LEN"
    selection = select(SMOLLM, small, read_settings({**fp32, name: value}))
    assert selection.chosen.serving.max_model_len == int(value)
    with pytest.raises(SettingError):
        select(SMOLLM, small, read_settings({**fp32, name: str(int(value) + 1)}))


def test_nothing_fits() -> None:
    with pytest.raises(SettingError) as raised:
        select(SMOLLM, machine(ram=0.1), read_settings({}))
    assert str(raised.value).count("It would fit with ") == 4


def test_a_gpu_profile_wins_where_its_gpus_are() -> None:
    manifest = with_gpu_profile(tp=2)
    chosen = select(manifest, machine(gpus=(80, 80)), read_settings({})).chosen
    assert (chosen.profile.device, chosen.memory.budget) == (Device.GPU, int(72 * GIB))
    lonely = rank(manifest, machine(gpus=(80,)), read_settings({}))[-1]
    assert lonely.reason == "It needs 2 GPU(s). The machine has 1."
    without = rank(manifest, machine(), read_settings({}))[-1]
    assert without.fit is Fit.INCOMPATIBLE
    assert without.reason == "It needs 2 GPU(s). There is no NVIDIA driver on this machine."


def test_the_pool_is_the_profiles_or_fills_the_share_that_was_named() -> None:
    default = select(SMOLLM, machine(), read_settings({})).chosen.memory
    assert default.kv_cache <= 512 << 20 < default.kv_cache + 16 * 23040
    half = select(SMOLLM, machine(), read_settings({"NIM_KVCACHE_PERCENT": "0.5"})).chosen.memory
    spent = half.weights + half.activations + half.runtime + half.kv_cache
    assert 0 <= 8 * GIB - spent < 16 * 23040


def test_weights_and_blocks_by_precision() -> None:
    sizes = {p.precision: weight_bytes(SMOLLM.spec, p) for p in SMOLLM.profiles}
    parameters = SMOLLM.num_parameters
    assert sizes[Precision.FP32] == 4 * parameters
    assert sizes[Precision.BF16] == 2 * parameters
    # As large as the GGUF of the same grid and head, but for its norms and metadata.
    assert sizes[Precision.INT4] == pytest.approx(96.6e6, rel=0.01)
    assert kv_block_bytes(SMOLLM.spec, SMOLLM.profiles[0]) == 16 * 23040


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
    small, large = (rank(SMOLLM, machine(ram=r), asked)[0] for r in (ram, ram + more))
    assert large.fit is Fit.RUNNABLE or small.fit is not Fit.RUNNABLE
    if small.fit is Fit.RUNNABLE:
        assert large.profile.relative_speed >= small.profile.relative_speed
        memory = small.memory
        total = memory.weights + memory.activations + memory.runtime + memory.kv_cache
        assert total <= memory.budget <= ram * GIB
        assert memory.kv_cache >= memory.kv_minimum
        assert memory.kv_cache == small.serving.kv_cache_bytes
        for name in settings.keys() - {"kvcache_percent"}:
            assert getattr(small.serving, name) == settings[name]
