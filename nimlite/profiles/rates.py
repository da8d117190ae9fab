"""How fast the devices of a profile read, compute and talk to each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nimlite.probe.machine import Gpu, Machine
from nimlite.profiles.calibration import (
    CPU_BANDWIDTH,
    CPU_FLOPS,
    CPU_NODE_BANDWIDTH,
    GPU_FLOPS,
)
from nimlite.profiles.manifest import Device, Profile
from nimlite.profiles.nearest import nearest_card

_PCIE_BANDWIDTH = 25e9
"""Where the probe does not know the link: PCIe 4.0 with 16 lanes."""
_REACHED = 0.93
"""Of a data sheet's rates that a plain measurement finds; calibration.py counts from the sheet."""


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


def gpu_rates(gpu: Gpu) -> tuple[float, Mapping[str, float], str]:
    """Bandwidth, peak rates by precision, and where they come from: the probe, or the card that is
    most like this one. A measurement below them counts."""
    bandwidth, flops, source = gpu.memory_bandwidth, gpu.flops, gpu.rates_from
    if bandwidth is None or not flops:
        card = nearest_card(gpu)
        share = gpu.mig.memory_share if gpu.mig else 1.0
        bandwidth = card.gb_s * 1e9 * share
        flops = {name: rate * 1e12 * share for name, rate in card.tflops.items()}
        source = f"those of {card.name}, the nearest card that is known"
    if gpu.measured_bandwidth is not None:
        bandwidth = min(bandwidth, gpu.measured_bandwidth / _REACHED)
    return bandwidth, flops, source


def _cpu_rates(profile: Profile, machine: Machine, num_threads: int) -> Rates:
    # two threads of a core share its arithmetic
    cores = min(num_threads, max(1, machine.cpu.physical_cores))
    has_avx512 = any(name.startswith("avx512") for name in machine.cpu.features)
    memory = machine.memory
    limit = memory.measured_bandwidth or memory.bandwidth
    limit = limit or CPU_NODE_BANDWIDTH * machine.cpu.numa_nodes
    return Rates(
        bandwidth=min(cores * CPU_BANDWIDTH, limit),
        flops=cores * CPU_FLOPS[profile.precision] * (1.0 if has_avx512 else 0.5),
        source=f"{num_threads} thread(s)",
    )
