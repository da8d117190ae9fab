"""One GPU, slice or link as plain data, by what the children printed about it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nimlite.probe.cards import estimated_flops, find_card, multiprocessors, pcie_bytes_per_s
from nimlite.probe.machine import Gpu, GpuProcess, Link, MigSlice

Answer = Mapping[str, Any]
"""What a child printed; nvml.py and cuda.py say what is in it."""

_NVLINK_BYTES_PER_S = {1: 20e9, 2: 25e9, 3: 25e9, 4: 25e9, 5: 25e9, 6: 25e9, 7: 50e9, 8: 100e9}
"""Of one link, one way, by NVML's code for NVLink 1.0, 2.0, 2.2, 3.0, 3.1, 4.0, 5.0 and 6.0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What of the host the GPUs depend on."""

    environ: Mapping[str, str]
    total_bytes: int
    available_bytes: int
    """With the page cache that the kernel would give back, and without a container's limit: the
    driver takes a GPU's memory past it."""
    container: bool = False
    root: Path = Path("/")
    """Stands for the file system's root in tests."""


def whole_card(card: Answer, host: Host) -> Gpu:
    """A card by NVML's answer and its data sheet; `index` is still to be set."""
    known = find_card(card["name"])
    capability, cores = card["compute_capability"], card["cores"]
    sms = multiprocessors(cores, capability) if cores else known.sms if known else None
    if known:
        bandwidth: float | None = known.gb_s * 1e9
        flops = {precision: rate * 1e12 for precision, rate in known.tflops.items()}
    else:
        bits, megahertz = card["bus_bits"], card["memory_mhz"]
        # Two transfers a clock, as NVML counts clocks, whatever the kind of memory.
        bandwidth = 2e6 * megahertz * bits / 8 if bits and megahertz else None
        clock = card["sm_mhz"]
        flops = estimated_flops(card["name"], capability, sms, clock * 1e6) if sms and clock else {}
    unified = card["total_bytes"] is None and not card["mig_enabled"]
    generation, lanes = card["pcie_generation"], card["pcie_lanes"]
    return Gpu(
        index=0,
        name=card["name"],
        uuid=card["uuid"],
        pci_device=card["pci_device"],
        compute_capability=capability,
        total_bytes=host.total_bytes if unified else card["total_bytes"] or 0,
        free_bytes=host.available_bytes if unified else _free(card, host),
        bus_id=card["bus_id"],
        nvml_index=card["nvml_index"],
        multiprocessors=sms,
        memory_bandwidth=bandwidth,
        flops=flops,
        rates_from=known.source if known else "estimate" if flops else "",
        unified_memory=unified,
        coherent=unified or card["memory_node"] is not None,
        mig_enabled=card["mig_enabled"],
        ecc=card["ecc"],
        power_limit_watts=card["power_limit_watts"],
        numa_node=_numa_node(card["bus_id"], host.root),
        pcie_bandwidth=pcie_bytes_per_s(generation, lanes) if generation and lanes else None,
        processes=_processes(card),
    )


def _processes(answer: Answer) -> tuple[GpuProcess, ...]:
    return tuple(GpuProcess(**process) for process in answer["processes"])


def _free(card: Answer, host: Host) -> int:
    """Where the kernel manages the card's memory (GH200), it fills it with page cache too."""
    node, free, total = card["memory_node"], card["free_bytes"], card["total_bytes"]
    if node is None or not free:
        return int(free or 0)
    text = _read(host.root / f"sys/devices/system/node/node{node}/meminfo")
    lines = (line.split() for line in text.splitlines())
    cache = [
        int(f[3]) for f in lines if len(f) > 3 and f[2] in ("Active(file):", "Inactive(file):")
    ]
    return int(min(total, free + sum(cache) * 1024))


def _numa_node(bus_id: str, root: Path) -> int | None:
    address = bus_id.lower()[-12:]  # NVML writes the domain in eight digits, the kernel in four
    text = _read(root / f"sys/bus/pci/devices/{address}/numa_node").strip()
    return int(text) if text.isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def mig_slice(whole: Gpu, part: Answer, card_bytes: int | None) -> Gpu:
    """One slice as a GPU of its own, with its share of the card's rates."""
    profile = part["name"].rpartition("MIG ")[2]
    named = re.search(r"\.(\d+)gb", profile)  # 3g.20gb: what a process without rights still learns
    size = part["total_bytes"] or part["size_bytes"] or (int(named[1]) << 30 if named else 0)
    sms = part["multiprocessors"]
    # A slice has eighths of the memory (quarters of an A30's), less what the driver keeps of them.
    memory_share = min(1.0, round(8 * size / card_bytes) / 8) if card_bytes else 0.0
    sm_share = sms / whole.multiprocessors if sms and whole.multiprocessors else memory_share
    bandwidth = whole.memory_bandwidth
    return replace(
        whole,
        uuid=part["uuid"],
        total_bytes=size,
        free_bytes=part["free_bytes"] or 0,
        multiprocessors=sms,
        memory_bandwidth=None if bandwidth is None else bandwidth * memory_share,
        flops={precision: rate * sm_share for precision, rate in whole.flops.items()},
        mig=MigSlice(
            profile=profile,
            parent=whole.uuid,
            sm_share=sm_share,
            memory_share=memory_share,
        ),
        processes=_processes(part),
    )


def with_cuda(gpu: Gpu, answer: Answer | None, host: Host) -> Gpu:
    """What CUDA knows better: a slice's memory where NVML is silent, and unified memory."""
    if answer is None or "problem" in answer:
        return gpu
    gpu = replace(gpu, multiprocessors=gpu.multiprocessors or answer["multiprocessors"])
    free, total = answer["free_bytes"], answer["total_bytes"]
    if answer["integrated"]:
        # CUDA counts the page cache as used, which the kernel gives back when it is asked.
        free = max(free, min(host.available_bytes, total))
        return replace(
            gpu,
            total_bytes=total,
            free_bytes=free,
            unified_memory=True,
            coherent=answer["coherent"],
        )
    if gpu.unified_memory or not gpu.total_bytes or not gpu.free_bytes:
        return replace(gpu, total_bytes=total, free_bytes=free, unified_memory=False)
    return gpu


def links(nvml: Answer, shown: Sequence[Gpu]) -> tuple[Link, ...]:
    """Between the GPUs that are shown; a slice has none."""
    at = {gpu.nvml_index: gpu for gpu in shown if gpu.mig is None}
    found = []
    for link in nvml["links"]:
        a, b = (at.get(index) for index in link["gpus"])
        if a is None or b is None:
            continue
        over_pcie = min(a.pcie_bandwidth or 0.0, b.pcie_bandwidth or 0.0)
        over_nvlink = link["nvlinks"] * _NVLINK_BYTES_PER_S.get(link["nvlink_version"], 25e9)
        found.append(
            Link(
                gpus=(min(a.index, b.index), max(a.index, b.index)),
                nvlinks=link["nvlinks"],
                p2p=link["p2p"],
                path=link["path"],
                bandwidth=over_nvlink or over_pcie or None,
            )
        )
    return tuple(sorted(found, key=lambda link: link.gpus))
