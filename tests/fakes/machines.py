"""Machines to choose for, by what matters to the choice."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from nimlite.probe.machine import Cpu, Disk, Gpu, Link, Machine, Memory, Software

GIB = 1 << 30

_CARDS: Mapping[str, tuple[str, str, float, float, dict[str, float]]] = {
    "T4": ("1eb8:10de", "7.5", 15, 320e9, {"fp16": 65e12, "int8": 130e12}),
    "A10": ("2236:10de", "8.6", 22.5, 600e9, {"bf16": 125e12, "fp16": 125e12, "int8": 250e12}),
    "A100": ("20b2:10de", "8.0", 80, 2039e9, {"bf16": 312e12, "fp16": 312e12, "int8": 624e12}),
    "L4": ("27b8:10de", "8.9", 22.5, 300e9, {"bf16": 121e12, "fp16": 121e12, "fp8": 242e12}),
    "H100": ("2330:10de", "9.0", 80, 3350e9, {"bf16": 989e12, "fp16": 989e12, "fp8": 1979e12}),
    "H200": ("2335:10de", "9.0", 140, 4800e9, {"bf16": 989e12, "fp16": 989e12, "fp8": 1979e12}),
}
"""PCI id, compute capability, GiB, bytes/s, FLOP/s, as their data sheets have them."""


def card(name: str, index: int = 0, free: float | None = None) -> Gpu:
    """`free` in GiB; default: all of it."""
    pci, capability, total, bandwidth, flops = _CARDS[name]
    return Gpu(
        index=index,
        name=f"NVIDIA {name}",
        uuid=f"GPU-{index}",
        pci_device=pci,
        compute_capability=capability,
        total_bytes=int(total * GIB),
        free_bytes=int((total if free is None else free) * GIB),
        memory_bandwidth=bandwidth,
        flops=flops,
        rates_from="data sheet",
    )


def host(
    gpus: Sequence[Gpu] = (),
    *,
    ram: float = 16.0,
    cores: int = 8,
    islands: Sequence[Sequence[int]] = (),
) -> Machine:
    """A host with `ram` GiB free; `islands`: indices of GPUs that NVLink joins."""
    cpu = Cpu(
        model="CPU",
        architecture="x86_64",
        physical_cores=cores,
        logical_cores=cores,
        affinity_cores=cores,
        quota_cores=None,
        features=("avx2", "avx512f"),
    )
    software = Software(os="Linux", nimlite="0", python="3.11", torch="2", driver=None, cuda=None)
    links = [
        Link(gpus=(low, high), nvlinks=18, p2p=True, bandwidth=450e9)
        for island in islands
        for low in island
        for high in island
        if low < high
    ]
    return Machine(
        cpu=cpu,
        memory=Memory(total_bytes=int(ram * GIB), available_bytes=int(ram * GIB), limit_bytes=None),
        disk=Disk(path="/", total_bytes=GIB, free_bytes=GIB),
        software=software,
        gpus=tuple(gpus),
        gpu_problem=None if gpus else "There is no NVIDIA driver on this machine.",
        links=tuple(links),
    )


def several(name: str, count: int) -> tuple[Gpu, ...]:
    """`count` equal cards."""
    return tuple(replace(card(name), index=i, uuid=f"GPU-{i}") for i in range(count))
