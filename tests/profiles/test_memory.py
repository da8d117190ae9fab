"""The memory arithmetic, against figures that were worked out or measured elsewhere."""

from dataclasses import replace

import pytest

from nimlite.profiles.load import load_manifest, profiles_directory
from nimlite.profiles.manifest import Device, Precision
from nimlite.profiles.memory import (
    kv_block_bytes,
    kv_bytes,
    plan_memory,
    stream_bytes,
    weight_bytes,
)
from nimlite.profiles.shape import ModelShape

SMOLLM = load_manifest(profiles_directory() / "smollm2-135m.yaml")
LLAMA = load_manifest(profiles_directory() / "llama3-8b.yaml")


def test_weights_and_blocks_by_precision() -> None:
    on_cpu = [p for p in SMOLLM.profiles if p.device is Device.CPU]
    sizes = {p.precision: weight_bytes(SMOLLM.shape, p) for p in on_cpu}
    parameters = SMOLLM.num_parameters
    # norms, and the rotation's table
    assert sizes[Precision.FP32] == pytest.approx(4 * parameters, rel=0.01)
    assert sizes[Precision.BF16] == pytest.approx(2 * parameters, rel=0.02)
    # As large as the GGUF of the same grid and head, but for its metadata.
    assert sizes[Precision.INT4] == pytest.approx(98.4e6, rel=0.03)
    assert kv_block_bytes(SMOLLM.shape, on_cpu[0]) == 16 * 23040


def test_an_8b_model_on_gpus() -> None:
    profiles = {p.name: p for p in LLAMA.profiles}
    bf16 = profiles["nimlite-bf16-tp1-pp1-gpu-latency"]
    assert weight_bytes(LLAMA.shape, bf16) == pytest.approx(16.06e9, rel=0.01)
    fp8 = profiles["nimlite-fp8-tp1-pp1-gpu-latency"]
    assert weight_bytes(LLAMA.shape, fp8) == pytest.approx(6.98e9 + 2 * 1.05e9, rel=0.01)
    assert kv_bytes(LLAMA.shape, bf16, 131072) == 16 << 30
    assert kv_bytes(LLAMA.shape, fp8, 131072) == 8 << 30
    halved = profiles["nimlite-bf16-tp2-pp1-gpu-latency"]
    assert weight_bytes(LLAMA.shape, halved) == pytest.approx(8.03e9, rel=0.015)
    # 8 heads of keys on 8 ranks, and no fewer bytes on 16
    sixteen = replace(halved, tp=16)
    assert kv_bytes(LLAMA.shape, sixteen, 64) == kv_bytes(LLAMA.shape, replace(halved, tp=8), 64)


def test_a_stream_gives_back_what_slid_out_of_all_windows() -> None:
    profile = next(p for p in LLAMA.profiles if p.device is Device.GPU)
    windowed = replace(LLAMA.shape, sliding_window=4096, num_windowed_layers=32)
    mixed = replace(windowed, num_windowed_layers=16)

    def tokens(shape: ModelShape, num_prompt: int, num_output: int) -> float:
        held = stream_bytes(shape, profile, num_prompt, num_output)
        return profile.block_size * held / kv_block_bytes(shape, profile)

    assert tokens(windowed, 1024, 16384) == 4096 + profile.block_size
    assert tokens(windowed, 8192, 16384) == 8192  # all of a prompt, to begin with
    assert tokens(windowed, 1024, 1024) == 2048
    assert tokens(mixed, 1024, 16384) == 17408


def test_what_just_fits_has_room_for_one_request() -> None:
    profile = replace(LLAMA.profiles[0], max_model_len=8256)
    needed = plan_memory(LLAMA.shape, profile, 0).needed
    just = plan_memory(LLAMA.shape, profile, needed)
    assert just.kv_cache == just.kv_minimum and just.total <= needed
    assert plan_memory(LLAMA.shape, profile, needed - 1).kv_cache < just.kv_minimum


@pytest.mark.parametrize(
    ("precision", "measured"), [("int4", 0.97), ("int8", 1.01), ("bf16", 1.13), ("fp32", 1.38)]
)
def test_a_servers_peak_on_the_cpu_is_never_above_and_at_most_a_tenth_below(
    precision: str, measured: float
) -> None:
    """docs/performance.md, "On a CPU": GiB at most, with 32 requests at once."""
    profile = next(
        p for p in SMOLLM.profiles if p.device is Device.CPU and p.precision == precision
    )
    predicted = plan_memory(SMOLLM.shape, profile, 1 << 40).total / (1 << 30)
    assert measured <= predicted <= 1.1 * measured


@pytest.mark.parametrize(
    ("precision", "context", "measured"),
    [
        ("bf16", 4096, 20.07),
        ("bf16", 32768, 21.57),
        ("bf16", 131072, 33.60),
        ("fp8", 4096, 12.19),
        ("fp8", 32768, 13.03),
        ("fp8", 131072, 19.03),
    ],
)
def test_an_engines_peak_on_an_h200_likewise(precision: str, context: int, measured: float) -> None:
    """docs/performance.md, "Predicted and measured": GiB by nvidia-smi."""
    name = f"nimlite-{precision}-tp1-pp1-gpu-latency"
    profile = next(p for p in LLAMA.profiles if p.name == name)
    profile = replace(profile, max_model_len=context, max_num_tokens=8192)
    pool = max(kv_bytes(LLAMA.shape, profile, n) * c for n, c in ((context, 1), (384, 64)))
    profile = replace(profile, kv_cache_bytes=pool)
    predicted = plan_memory(LLAMA.shape, profile, 1 << 40).total / (1 << 30)
    assert measured <= predicted <= 1.1 * measured
