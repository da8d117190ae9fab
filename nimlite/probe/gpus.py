"""From the driver's and CUDA's answers to the GPUs that this process may use, in CUDA's order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nimlite.probe.cards import estimated_flops, find_card, multiprocessors, pcie_bytes_per_s
from nimlite.probe.child import ask_child, script
from nimlite.probe.machine import Gpu, GpuProcess, HiddenGpu, Link, MigSlice
from nimlite.probe.visible import Visible, container_request, visible_devices

Answer = Mapping[str, Any]
"""What a child printed; nvml.py and cuda.py say what is in it."""

_NVLINK_BYTES_PER_S = {1: 20e9, 2: 25e9, 3: 25e9, 4: 25e9, 5: 25e9, 6: 25e9, 7: 50e9, 8: 100e9}
"""Of one link, one way, by NVML's code for NVLink 1.0, 2.0, 2.2, 3.0, 3.1, 4.0, 5.0 and 6.0."""
_ONE_SLICE = "CUDA lets a process use one MIG slice, and this is another."
_NOT_SHOWN = "CUDA does not show it, as it does with whole cards beside a MIG slice."


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What `Machine` says about GPUs."""

    gpus: tuple[Gpu, ...] = ()
    problem: str | None = None
    links: tuple[Link, ...] = ()
    hidden: tuple[HiddenGpu, ...] = ()
    notes: tuple[str, ...] = ()
    driver: str | None = None
    cuda: str | None = None


@dataclass(frozen=True, slots=True)
class _Device:
    """What CUDA could show as one device: a whole card, or a slice of one."""

    gpu: Gpu
    names: tuple[str, ...]
    """Its UUID, and the same in other spellings that CUDA takes."""
    card: int
    """The card's number in NVML."""


def find_gpus(host: Host) -> Found:
    """Ask the driver, and CUDA where the driver can't say all. Never raises."""
    nvml, problem = ask_child(script("nvml.py"), "The GPU driver")
    if problem is not None:
        return Found(problem=_explain(problem, host))
    cuda, trouble = ask_child(script("cuda.py"), "CUDA") if needs_cuda(nvml, host) else (None, None)
    found = assemble(nvml, cuda, host)
    return found if trouble is None else replace(found, notes=(*found.notes, trouble))


def needs_cuda(nvml: Answer, host: Host) -> bool:
    """Whether NVML's answer leaves something open: slices, unified memory, the order of cards."""
    cards = nvml["gpus"]
    by_speed = host.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID"
    return (
        any(card["mig_enabled"] or card["total_bytes"] is None for card in cards)
        or (by_speed and len({card["name"] for card in cards}) > 1)
    )  # fmt: skip


def assemble(nvml: Answer, cuda: Answer | None, host: Host) -> Found:
    """The GPUs by NVML's answer and, where it was asked and could say, by CUDA's."""
    devices = [device for card in nvml["gpus"] for device in _devices(card, host)]
    devices = _in_cuda_order(devices, host)
    order, visible = _usable(devices, cuda, host)
    answers = {_bare(answer["uuid"]): answer for answer in (cuda or {}).get("devices", ())}
    shown = [
        _with_cuda(replace(devices[d].gpu, index=i), answers.get(_bare(devices[d].gpu.uuid)), host)
        for i, d in enumerate(order)
    ]
    hidden = [
        _hidden(device, position in visible.order, visible.reason)
        for position, device in enumerate(devices)
        if position not in order
    ]
    hidden += [
        _sliceless(card) for card in nvml["gpus"] if card["mig_enabled"] and not card["slices"]
    ]
    notes = [f"GPU {lost['nvml_index']} is lost: {lost['problem']}." for lost in nvml["lost"]]
    request = container_request(host.environ.get("NVIDIA_VISIBLE_DEVICES"), len(nvml["gpus"]))
    problem = None if shown else f"The driver shows GPUs, but none is left here. {hidden[0].reason}"
    return Found(
        gpus=tuple(shown),
        problem=problem,
        links=_links(nvml, shown),
        hidden=tuple(hidden),
        notes=(*notes, request) if request else tuple(notes),
        driver=nvml["driver"],
        cuda=nvml["cuda"],
    )


def _explain(problem: str, host: Host) -> str:
    request = container_request(host.environ.get("NVIDIA_VISIBLE_DEVICES"), 0)
    if not host.container:
        return problem
    return f"{problem} {request or 'A container gets GPUs by `docker run --gpus all`.'}"


def _hidden(device: _Device, is_visible: bool, reason: str) -> HiddenGpu:
    if is_visible:  # by the variable, but not by CUDA
        reason = _ONE_SLICE if device.gpu.mig else _NOT_SHOWN
    return HiddenGpu(name=device.gpu.name, uuid=device.gpu.uuid, reason=reason)


def _sliceless(card: Answer) -> HiddenGpu:
    reason = "Its MIG mode is on, but it has no slice that this process may use."
    return HiddenGpu(name=card["name"], uuid=card["uuid"], reason=reason)


def _devices(card: Answer, host: Host) -> list[_Device]:
    whole = _whole_card(card, host)
    if not card["mig_enabled"]:
        return [_Device(whole, (whole.uuid,), card["nvml_index"])]
    return [_slice(whole, part, card) for part in card["slices"]]


def _whole_card(card: Answer, host: Host) -> Gpu:
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


def _slice(whole: Gpu, part: Answer, card: Answer) -> _Device:
    """One slice as a GPU of its own, with its share of the card's rates."""
    size = part["total_bytes"] or part["size_bytes"] or 0
    sms, card_bytes = part["multiprocessors"], card["total_bytes"]
    sm_share = sms / whole.multiprocessors if sms and whole.multiprocessors else 0.0
    # A slice has eighths of the memory (quarters of an A30's), less what the driver keeps of them.
    memory_share = min(1.0, round(8 * size / card_bytes) / 8) if card_bytes else 0.0
    gpu = replace(
        whole,
        uuid=part["uuid"],
        total_bytes=size,
        free_bytes=part["free_bytes"] or 0,
        multiprocessors=sms,
        memory_bandwidth=_scaled(whole.memory_bandwidth, memory_share),
        flops={precision: rate * sm_share for precision, rate in whole.flops.items()},
        mig=MigSlice(
            profile=part["name"].rpartition("MIG ")[2],
            parent=whole.uuid,
            sm_share=sm_share,
            memory_share=memory_share,
        ),
        processes=_processes(part),
    )
    legacy = f"MIG-{whole.uuid}/{part['gpu_instance']}/{part['compute_instance']}"
    return _Device(gpu, (part["uuid"], legacy), card["nvml_index"])


def _scaled(rate: float | None, share: float) -> float | None:
    return None if rate is None else rate * share


def _in_cuda_order(devices: Sequence[_Device], host: Host) -> list[_Device]:
    """CUDA_DEVICE_ORDER: by PCI address, or the fastest first, of which CUDA says no more."""
    by_address = sorted(devices, key=lambda device: device.gpu.bus_id.lower())
    if host.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID":
        return by_address
    fastest = max(by_address, key=_card_speed, default=None)
    return sorted(by_address, key=lambda device: not fastest or device.card != fastest.card)


def _card_speed(device: _Device) -> float:
    gpu = device.gpu
    return gpu.flops.get("fp32", 0.0) / (gpu.mig.sm_share if gpu.mig and gpu.mig.sm_share else 1.0)


def _usable(
    devices: Sequence[_Device], cuda: Answer | None, host: Host
) -> tuple[tuple[int, ...], Visible]:
    """(positions in CUDA's order, what CUDA_VISIBLE_DEVICES alone lets through)"""
    value = host.environ.get("CUDA_VISIBLE_DEVICES")
    visible = visible_devices(value, [device.names for device in devices])
    if cuda is not None and "devices" in cuda:
        positions = {_bare(device.gpu.uuid): i for i, device in enumerate(devices)}
        seen = (positions.get(_bare(answer["uuid"])) for answer in cuda["devices"])
        return tuple(position for position in seen if position is not None), visible
    first = next((i for i in visible.order if devices[i].gpu.mig), None)
    return visible.order if first is None else (first,), visible


def _bare(uuid: str) -> str:
    return uuid.removeprefix("GPU-").removeprefix("MIG-").lower()


def _with_cuda(gpu: Gpu, answer: Answer | None, host: Host) -> Gpu:
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


def _links(nvml: Answer, shown: Sequence[Gpu]) -> tuple[Link, ...]:
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
