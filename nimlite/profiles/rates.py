"""How fast the devices of a profile read, compute and talk to each other."""

from collections.abc import Sequence
from dataclasses import dataclass

from nimlite.probe.machine import Gpu, Machine
from nimlite.profiles.calibration import (
    CPU_BANDWIDTH,
    CPU_FLOPS,
    CPU_NODE_BANDWIDTH,
    GPU_FLOPS,
)
from nimlite.profiles.manifest import Device, Profile

_PCIE_BANDWIDTH = 25e9
"""Where the probe does not know the link: PCIe 4.0 with 16 lanes."""
_BY_CAPABILITY = {
    (7, 0): (900e9, {"fp16": 112e12}),
    (7, 5): (320e9, {"fp16": 65e12, "int8": 130e12}),
    (8, 0): (1555e9, {"bf16": 312e12, "fp16": 312e12, "int8": 624e12}),
    (8, 6): (600e9, {"bf16": 125e12, "fp16": 125e12, "int8": 250e12}),
    (8, 9): (300e9, {"bf16": 121e12, "fp16": 121e12, "fp8": 242e12, "int8": 242e12}),
    (9, 0): (2000e9, {"bf16": 756e12, "fp16": 756e12, "fp8": 1513e12, "int8": 1513e12}),
    (10, 0): (8000e9, {"bf16": 2250e12, "fp16": 2250e12, "fp8": 4500e12, "int8": 4500e12}),
    (12, 0): (896e9, {"bf16": 88e12, "fp16": 88e12, "fp8": 176e12, "int8": 176e12}),
}
"""Bandwidth and rates of the slowest card of a compute capability in its data sheet: what stands in
where the probe knows neither the card nor a relative of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Of one rank."""

    bandwidth: float
    """Bytes/s of its memory."""
    flops: float
    """FLOP/s in the profile's precision."""
    link: float = 0.0
    """Bytes/s to the other ranks; 0: there are none."""
    has_nvlink: bool = False
    source: str = ""
    """Where they come from."""


def rates(profile: Profile, gpus: Sequence[Gpu], machine: Machine, num_threads: int) -> Rates:
    """What the profile has to run on: `gpus` of equal kind, or the CPU with its threads."""
    if profile.device is Device.CPU:
        return _cpu_rates(profile, machine, num_threads)
    gpu = gpus[0]
    bandwidth, flops, source = gpu_rates(gpu)
    names = GPU_FLOPS[profile.precision]
    rate = next((flops[name] for name in names if name in flops), min(flops.values()))
    used = {gpu.index for gpu in gpus}
    links = [link for link in machine.links if used.issuperset(link.gpus)]
    return Rates(
        bandwidth=bandwidth,
        flops=rate,
        link=min((link.bandwidth or _PCIE_BANDWIDTH for link in links), default=_PCIE_BANDWIDTH),
        has_nvlink=bool(links) and all(link.nvlinks for link in links),
        source=source,
    )


def gpu_rates(gpu: Gpu) -> tuple[float, dict[str, float], str]:
    """Bandwidth, peak rates by precision, and where they come from."""
    known = capability(gpu)
    nearest = max((c for c in _BY_CAPABILITY if c <= known), default=(7, 0))
    bandwidth, flops = _BY_CAPABILITY[nearest]
    share = gpu.mig.memory_share if gpu.mig else 1.0
    if gpu.memory_bandwidth is not None and gpu.flops:
        return gpu.memory_bandwidth, dict(gpu.flops), gpu.rates_from
    source = f"those of the slowest card of compute capability {nearest[0]}.{nearest[1]}"
    return bandwidth * share, {name: rate * share for name, rate in flops.items()}, source


def capability(gpu: Gpu) -> tuple[int, int]:
    """(9, 0) of an H100; (0, 0) where it can't be read."""
    major, _, minor = gpu.compute_capability.partition(".")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else (0, 0)


def _cpu_rates(profile: Profile, machine: Machine, num_threads: int) -> Rates:
    cpu = machine.cpu
    has_avx512 = any(name.startswith("avx512") for name in cpu.features)
    limit = CPU_NODE_BANDWIDTH * max(1, cpu.numa_nodes)
    return Rates(
        bandwidth=min(num_threads * CPU_BANDWIDTH, limit),
        flops=num_threads * CPU_FLOPS[profile.precision] * (1.0 if has_avx512 else 0.5),
        source=f"{num_threads} thread(s)",
    )
