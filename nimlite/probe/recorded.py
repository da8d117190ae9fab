"""Makes profiles/machines/*.json from the data sheets: `python -m nimlite.probe.recorded`.

They stand for real machines where a question is asked about one that is not at hand. One GPU each,
or several as they are sold: on a board with NVLink, in bridged pairs, or on PCIe alone. Only
h200.json is not made here: it was recorded on the card.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from nimlite.probe.cards import Card, find_card, pcie_bytes_per_s
from nimlite.probe.machine import (
    Cpu,
    Disk,
    Gpu,
    Link,
    Machine,
    Memory,
    MigSlice,
    Software,
    machines_directory,
)

_MIB, _GIB, _TB = 1 << 20, 1 << 30, 10**12
_DRIVER_BYTES = 512 * _MIB
"""What the driver keeps of a card that nobody uses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Host:
    """The machine around the cards. Cores and memory are those of one GPU's share."""

    model: str
    cores: int
    threads_per_core: int
    gib: float
    gb_s: float
    """Memory bandwidth of a socket, in 10**9 bytes/s."""
    features: tuple[str, ...]
    architecture: str = "x86_64"
    os: str = "Linux-6.8.0-generic-x86_64-with-glibc2.39"


_AVX2 = ("avx2", "fma", "f16c")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512vl", "avx512_vnni")
_AMX = (*_AVX512, "avx512_bf16", "avx512_fp16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16")
_ARM_V9 = ("neon", "asimddp", "i8mm", "bf16", "sve", "sve2")
_ARM_OS = "Linux-6.11.0-1016-nvidia-64k-aarch64-with-glibc2.39"

# Socket bandwidth: channels × transfer rate × 8 bytes, of the makers' product pages.
_SKYLAKE = _Host(model="Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz", cores=8,
                 threads_per_core=2, gib=61, gb_s=141, features=_AVX512)  # fmt: skip
_ROME = _Host(model="AMD EPYC 7742 64-Core Processor", cores=12, threads_per_core=2, gib=125,
              gb_s=205, features=_AVX2)  # fmt: skip
_SAPPHIRE = _Host(model="Intel(R) Xeon(R) Platinum 8480C", cores=14, threads_per_core=2, gib=240,
                  gb_s=307, features=_AMX)  # fmt: skip
_EMERALD = _Host(model="INTEL(R) XEON(R) PLATINUM 8570", cores=14, threads_per_core=2, gib=240,
                 gb_s=358, features=_AMX)  # fmt: skip
_DESKTOP = _Host(model="AMD Ryzen 9 7950X 16-Core Processor", cores=16, threads_per_core=2, gib=62,
                 gb_s=83, features=(*_AVX512, "avx512_bf16"))  # fmt: skip
_GRACE = _Host(model="Neoverse-V2", cores=72, threads_per_core=1, gib=480, gb_s=384,
               features=_ARM_V9, architecture="aarch64", os=_ARM_OS)  # fmt: skip
_GRACE_HALF = replace(_GRACE, cores=36, gib=240)
_SPARK = _Host(model="Cortex-X925", cores=20, threads_per_core=1, gib=119.7, gb_s=273,
               features=_ARM_V9, architecture="aarch64", os=_ARM_OS)  # fmt: skip
_SMALL = replace(_SKYLAKE, cores=2, threads_per_core=1, gib=4)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Product:
    """Cards of one kind as they are sold."""

    name: str
    """Of the file; -x2 and so on follow for several."""
    card: str
    host: _Host
    counts: tuple[int, ...] = (1,)
    links: Mapping[int, int] | None = None
    """NVLinks of every pair by the number of cards; None: PCIe alone."""
    bridged: int = 0
    """Cards that one bridge joins: 0 where all are on a board."""


_PRODUCTS = (
    _Product(name="t4", card="Tesla T4", host=_SKYLAKE, counts=(1, 2, 4, 8)),
    _Product(name="v100-16", card="Tesla V100-SXM2-16GB", host=_SKYLAKE),
    _Product(name="v100-32", card="Tesla V100-SXM2-32GB", host=_SKYLAKE),
    _Product(name="v100-pcie-16", card="Tesla V100-PCIE-16GB", host=_SKYLAKE, counts=(1, 2, 4)),
    _Product(name="v100-pcie-32", card="Tesla V100-PCIE-32GB", host=_SKYLAKE, counts=(1, 2, 4)),
    _Product(name="a10", card="NVIDIA A10", host=_ROME, counts=(1, 2, 4)),
    _Product(name="a10g", card="NVIDIA A10G", host=_ROME, counts=(1, 4, 8)),
    _Product(name="a30", card="NVIDIA A30", host=_ROME, counts=(1, 2, 4), links={2: 4}, bridged=2),
    _Product(name="a40", card="NVIDIA A40", host=_ROME, counts=(1, 2, 4), links={2: 4}, bridged=2),
    _Product(name="a100-40-pcie", card="NVIDIA A100-PCIE-40GB", host=_ROME, counts=(1, 2, 4, 8),
             links={2: 12}, bridged=2),
    _Product(name="a100-40-sxm", card="NVIDIA A100-SXM4-40GB", host=_ROME, counts=(1, 2, 4, 8),
             links={2: 12, 4: 4, 8: 12}),
    _Product(name="a100-80-pcie", card="NVIDIA A100 80GB PCIe", host=_ROME, counts=(1, 2, 4, 8),
             links={2: 12}, bridged=2),
    _Product(name="a100-80-sxm", card="NVIDIA A100-SXM4-80GB", host=_ROME, counts=(1, 2, 4, 8),
             links={2: 12, 4: 4, 8: 12}),
    _Product(name="l4", card="NVIDIA L4", host=_ROME, counts=(1, 2, 4, 8)),
    _Product(name="l40", card="NVIDIA L40", host=_SAPPHIRE),
    _Product(name="l40s", card="NVIDIA L40S", host=_SAPPHIRE, counts=(1, 2, 4, 8)),
    _Product(name="h100-sxm", card="NVIDIA H100 80GB HBM3", host=_SAPPHIRE, counts=(1, 2, 4, 8),
             links={2: 18, 4: 6, 8: 18}),
    _Product(name="h100-pcie", card="NVIDIA H100 PCIe", host=_SAPPHIRE, counts=(1, 2, 4, 8),
             links={2: 12}, bridged=2),
    _Product(name="h100-nvl", card="NVIDIA H100 NVL", host=_SAPPHIRE, counts=(1, 2, 4, 8),
             links={2: 12}, bridged=2),
    _Product(name="h200", card="NVIDIA H200", host=_SAPPHIRE, counts=(2, 4, 8),
             links={2: 18, 4: 6, 8: 18}),
    _Product(name="h200-nvl", card="NVIDIA H200 NVL", host=_SAPPHIRE, counts=(1, 2, 4, 8),
             links={2: 18, 4: 6}, bridged=4),
    _Product(name="gh200", card="NVIDIA GH200 480GB", host=_GRACE, counts=(1, 2), links={2: 18}),
    _Product(name="b200", card="NVIDIA B200", host=_EMERALD, counts=(1, 2, 4, 8),
             links={2: 18, 4: 18, 8: 18}),
    _Product(name="gb200", card="NVIDIA GB200", host=_GRACE_HALF, counts=(1, 2, 4),
             links={2: 18, 4: 18}),
    _Product(name="gb10", card="NVIDIA GB10", host=_SPARK),
    _Product(name="rtx-3060", card="NVIDIA GeForce RTX 3060", host=_DESKTOP),
    _Product(name="rtx-3090", card="NVIDIA GeForce RTX 3090", host=_DESKTOP, counts=(1, 2),
             links={2: 4}),
    _Product(name="rtx-4090", card="NVIDIA GeForce RTX 4090", host=_DESKTOP, counts=(1, 2)),
    _Product(name="rtx-5090", card="NVIDIA GeForce RTX 5090", host=_DESKTOP, counts=(1, 2)),
    _Product(name="rtx-a6000", card="NVIDIA RTX A6000", host=_DESKTOP, counts=(1, 2), links={2: 4}),
    _Product(name="rtx-6000-ada", card="NVIDIA RTX 6000 Ada Generation", host=_DESKTOP,
             counts=(1, 2, 4)),
    _Product(name="rtx-pro-6000", card="NVIDIA RTX PRO 6000 Blackwell Workstation Edition",
             host=_DESKTOP),
    _Product(name="rtx-pro-6000-server", card="NVIDIA RTX PRO 6000 Blackwell Server Edition",
             host=_EMERALD, counts=(1, 2, 4, 8)),
)  # fmt: skip

_DGX1 = {
    (0, 1): 1, (0, 2): 1, (0, 3): 2, (0, 4): 2, (1, 2): 2, (1, 3): 1, (1, 5): 2, (2, 3): 2,
    (2, 6): 1, (3, 7): 1, (4, 5): 1, (4, 6): 1, (4, 7): 2, (5, 6): 2, (5, 7): 1, (6, 7): 2,
}  # fmt: skip
"""NVLinks of eight V100 in a cube mesh: the DGX-1 (V100) system architecture white paper."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slice:
    """A MIG slice: the tables of profiles in the MIG user guide, MiB as nvidia-smi lists them."""

    name: str
    card: str
    host: _Host
    profile: str
    sms: int
    mib: int
    memory_share: float


_SLICES = (
    _Slice(name="a100-40-1g.5gb", card="NVIDIA A100-SXM4-40GB", host=_ROME, profile="1g.5gb",
           sms=14, mib=4864, memory_share=1 / 8),
    _Slice(name="a100-40-3g.20gb", card="NVIDIA A100-SXM4-40GB", host=_ROME, profile="3g.20gb",
           sms=42, mib=19968, memory_share=4 / 8),
    _Slice(name="h100-1g.10gb", card="NVIDIA H100 80GB HBM3", host=_SAPPHIRE, profile="1g.10gb",
           sms=16, mib=9984, memory_share=1 / 8),
    _Slice(name="h100-3g.40gb", card="NVIDIA H100 80GB HBM3", host=_SAPPHIRE, profile="3g.40gb",
           sms=60, mib=40448, memory_share=4 / 8),
)  # fmt: skip


def recorded_machines() -> dict[str, Machine]:
    """All but the H200, by the names of their files."""
    made = {name: machine for product in _PRODUCTS for name, machine in _sold(product)}
    v100 = [_card("Tesla V100-SXM2-32GB")] * 8
    made |= {f"v100-32-x{n}": _machine(_SKYLAKE, v100[:n], _DGX1) for n in (2, 4, 8)}
    made |= {part.name: _sliced(part) for part in _SLICES}
    mixed = [_card("NVIDIA GeForce RTX 4090"), _card("NVIDIA GeForce RTX 3060")]
    made["mixed-4090-3060"] = _machine(_DESKTOP, mixed, {})
    made["cpu-server"] = _without_gpu(replace(_SAPPHIRE, cores=32, gib=128))
    made["cpu-server-arm"] = _without_gpu(replace(_GRACE, cores=64, gib=128))
    made["cpu-desktop"] = _without_gpu(_DESKTOP)
    made["cpu-small"] = _without_gpu(_SMALL)
    made["broken-driver"] = replace(
        _without_gpu(_ROME),
        gpu_problem="The NVIDIA driver does not work: Driver/library version mismatch.",
    )
    return made


def _card(name: str) -> Card:
    card = find_card(name)
    assert card is not None, name
    return card


def _sold(product: _Product) -> Iterator[tuple[str, Machine]]:
    card = _card(product.card)
    for count in product.counts:
        group = min(count, product.bridged or count)
        per_pair = (product.links or {}).get(group, 0)
        pairs = combinations(range(count), 2)
        links = {(a, b): per_pair for a, b in pairs if a // group == b // group}
        name = product.name if count == 1 else f"{product.name}-x{count}"
        yield name, _machine(product.host, [card] * count, links)


def _machine(host: _Host, cards: list[Card], nvlinks: Mapping[tuple[int, int], int]) -> Machine:
    """So many shares of the host, with two sockets from eight GPUs on, and from four on Grace."""
    count = len(cards)
    sockets = 2 if count >= 8 or (host.architecture == "aarch64" and count >= 4) else 1
    if host is _GRACE:
        sockets = count  # a CPU each
    shares = 1 if host is _DESKTOP else count
    machine = _without_gpu(host, shares=shares, sockets=sockets)
    gpus = tuple(_gpu(card, host, i, i * sockets // count) for i, card in enumerate(cards))
    if host is _SPARK:
        memory = machine.memory
        gpus = (
            replace(
                gpus[0],
                unified_memory=True,
                total_bytes=memory.total_bytes,
                free_bytes=memory.available_bytes,
            ),
        )
    return replace(
        machine,
        gpus=gpus,
        gpu_problem=None,
        links=tuple(
            _link(gpus[a], gpus[b], cards[a], nvlinks.get((a, b), 0))
            for a, b in combinations(range(count), 2)
        ),
        software=replace(machine.software, driver="580.95.05", cuda="13.0"),
    )


def _gpu(card: Card, host: _Host, index: int, node: int) -> Gpu:
    total = card.mib * _MIB
    return Gpu(
        index=index,
        name=card.name,
        uuid=f"GPU-00000000-0000-0000-{int(card.pci, 16):04x}-{index:012x}",
        pci_device=f"{card.pci}:10de",
        compute_capability=card.capability,
        total_bytes=total,
        free_bytes=total - _DRIVER_BYTES,
        bus_id=f"00000000:{0x10 * (index + 1):02X}:00.0",
        nvml_index=index,
        multiprocessors=card.sms,
        memory_bandwidth=card.gb_s * 1e9,
        flops={precision: rate * 1e12 for precision, rate in card.tflops.items()},
        rates_from=card.source,
        coherent=host.architecture == "aarch64",
        mig_enabled=None,
        ecc=True if card.ecc else None,
        power_limit_watts=float(card.watts),
        numa_node=node,
        pcie_bandwidth=pcie_bytes_per_s(card.pcie, 16),
    )


def _link(a: Gpu, b: Gpu, card: Card, nvlinks: int) -> Link:
    datacentre = "GeForce" not in a.name and "GeForce" not in b.name
    by_pcie = min(a.pcie_bandwidth or 0.0, b.pcie_bandwidth or 0.0)
    return Link(
        gpus=(a.index, b.index),
        nvlinks=nvlinks,
        p2p=bool(nvlinks) or datacentre,  # GeForce drivers allow none over PCIe
        path="NODE" if a.numa_node == b.numa_node else "SYS",
        bandwidth=nvlinks * card.nvlink_gb_s * 1e9 or by_pcie,
    )


def _sliced(part: _Slice) -> Machine:
    machine = _machine(part.host, [_card(part.card)], {})
    whole = machine.gpus[0]
    share = part.sms / (whole.multiprocessors or 1)
    gpu = replace(
        whole,
        uuid=whole.uuid.replace("GPU-", "MIG-"),
        total_bytes=part.mib * _MIB,
        free_bytes=(part.mib - 32) * _MIB,
        multiprocessors=part.sms,
        memory_bandwidth=(whole.memory_bandwidth or 0.0) * part.memory_share,
        flops={precision: rate * share for precision, rate in whole.flops.items()},
        mig_enabled=True,
        mig=MigSlice(
            profile=part.profile,
            parent=whole.uuid,
            sm_share=share,
            memory_share=part.memory_share,
        ),
    )
    return replace(machine, gpus=(gpu,))


def _without_gpu(host: _Host, shares: int = 1, sockets: int = 1) -> Machine:
    cores, gib = host.cores * shares, host.gib * shares
    threads = cores * host.threads_per_core
    return Machine(
        cpu=Cpu(
            model=host.model,
            architecture=host.architecture,
            physical_cores=cores,
            logical_cores=threads,
            affinity_cores=threads,
            quota_cores=None,
            features=host.features,
            numa_nodes=sockets,
        ),
        memory=Memory(
            total_bytes=int(gib * _GIB),
            available_bytes=int(gib * _GIB * 15 / 16),
            limit_bytes=None,
            bandwidth=host.gb_s * 1e9 * sockets,
        ),
        disk=Disk(path="/root/.cache/nimlite", total_bytes=2 * _TB, free_bytes=1 * _TB),
        software=Software(
            os=host.os, nimlite="0.1.0", python="3.12.3", torch="2.11.0", driver=None, cuda=None
        ),
        gpu_problem="There is no NVIDIA driver on this machine.",
    )


def main(directory: Path) -> None:
    """Write one file a machine."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, machine in recorded_machines().items():
        (directory / f"{name}.json").write_text(machine.to_json() + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else machines_directory())
