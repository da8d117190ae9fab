"""How much of a device's peak the engine reaches: the one table that predictions are tuned by.

Measured on 2026-11-23, commits 70c53cf (one H200) and 63a288b (one core of an AMD EPYC with
AVX-512), attention on 2026-11-24, commit 7c994d7; docs/performance.md has the runs. What is not
measured leans on its nearest neighbour. A change for speed is followed by a change here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from nimlite.profiles.manifest import Device, Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """What a step costs beyond the data sheet."""

    weights: float
    """Share of the memory's bandwidth at which products of few rows read weights."""
    kv: float
    """Share of it at which attention reads keys and values."""
    compute: float
    """Share of the peak rate that products of many rows reach."""
    layer_seconds: float
    """A layer's time that no roof explains: launches, norms, tails."""
    sequence_seconds: float
    """The host's and the sampler's part for each sequence of a step."""
    source: str
    """Where the figures come from."""


_BF16 = Efficiency(
    weights=0.845,  # products 3.7 ms a step of one sequence
    kv=0.88,  # 128 us at 64 x 2,048, 196 at 1,024 x 190
    compute=0.63,  # 43,051 tokens/s of prefill
    layer_seconds=25e-6,  # 4.5 ms a step of one sequence
    sequence_seconds=2e-6,  # 31 ms a step of 1,024
    source="measured on an H200",
)
_FP8 = replace(_BF16, weights=0.765, kv=0.8, compute=0.49)  # 2.9 ms, 69 and 113 us, 69,587 tokens/s
_CPU = Efficiency(
    weights=1.0,
    kv=1.0,
    compute=1.0,
    layer_seconds=17e-6,
    sequence_seconds=0.0,
    source="measured on an AMD EPYC",
)
# as fp8, but sums of many rows go through memory once before they are scaled. The three below give
# an H200 less than it was then seen to do (prefill 0.44, 0.6 and 0.6, one row 0.71, 0.75 and 0.6;
# docs/performance.md): they decide on cards that nobody has measured, and rounding must pay there
_INT8_SQ = replace(_FP8, weights=0.72, kv=0.88, compute=0.38, source="estimated after fp8")
_INT8_WO = replace(_BF16, weights=0.7, compute=0.5, source="estimated after bf16")
_INT4 = replace(_BF16, weights=0.6, compute=0.45, source="estimated after bf16")

EFFICIENCY: Mapping[tuple[Device, Precision], Efficiency] = {
    (Device.GPU, Precision.BF16): _BF16,
    (Device.GPU, Precision.FP16): replace(_BF16, source="estimated after bf16"),
    (Device.GPU, Precision.FP8): _FP8,
    (Device.GPU, Precision.INT8_SQ): _INT8_SQ,
    (Device.GPU, Precision.INT8_WO): _INT8_WO,
    (Device.GPU, Precision.INT4_AWQ): _INT4,
    (Device.GPU, Precision.INT4_GPTQ): _INT4,
    (Device.CPU, Precision.FP32): _CPU,
    (Device.CPU, Precision.BF16): _CPU,
    (Device.CPU, Precision.FP8): _CPU,
    (Device.CPU, Precision.INT8): _CPU,
    (Device.CPU, Precision.INT8_WO): _CPU,
    (Device.CPU, Precision.INT8_SQ): _CPU,
    (Device.CPU, Precision.INT4_AWQ): _CPU,
    (Device.CPU, Precision.INT4_GPTQ): _CPU,
    (Device.CPU, Precision.INT4): _CPU,
}
CPU_BANDWIDTH = 35e9
"""Bytes/s that one compute thread reads."""
CPU_NODE_BANDWIDTH = 100e9
"""Of a NUMA node's memory, where the probe does not know it: four channels of DDR4."""
CPU_FLOPS: Mapping[Precision, float] = {
    Precision.FP32: 0.22e12,
    Precision.BF16: 0.23e12,
    Precision.FP8: 0.2e12,
    Precision.INT8: 0.5e12,
    Precision.INT4: 0.5e12,
    Precision.INT8_WO: 0.2e12,
    Precision.INT8_SQ: 0.5e12,
    Precision.INT4_AWQ: 0.2e12,
    Precision.INT4_GPTQ: 0.2e12,
}
"""FLOP/s of one compute thread with AVX-512; half of it without."""
GPU_FLOPS: Mapping[Precision, tuple[str, ...]] = {
    Precision.FP8: ("fp8",),
    Precision.INT8_SQ: ("int8",),
    Precision.INT8_WO: ("bf16", "fp16"),
    Precision.BF16: ("bf16", "fp16"),
    Precision.FP16: ("fp16",),
    Precision.INT4_AWQ: ("bf16", "fp16"),
    Precision.INT4_GPTQ: ("bf16", "fp16"),
}
"""Which of a card's peak rates a precision computes at, the first that it has."""
EXCHANGE_SECONDS = {True: 9e-6, False: 20e-6}
"""A small all-reduce between two ranks, with NVLink and without (H200, NCCL: 9.1 us for 8 KB)."""
EXCHANGE_SHARE = 0.55
"""Of a link's bandwidth that a large all-reduce reaches (16 MB in 76.7 us over 450 GB/s)."""
