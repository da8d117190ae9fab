"""The GPUs that this process may use, in CUDA's order, and those that are hidden from it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nimlite.probe.answers import Answer, Host, links, mig_slice, whole_card, with_cuda
from nimlite.probe.child import ask_child, script
from nimlite.probe.machine import Gpu, HiddenGpu, Link
from nimlite.probe.visible import Visible, container_request, visible_devices

_ONE_SLICE = "CUDA lets a process use one MIG slice, and this is another."
_NOT_SHOWN = "CUDA does not show it to this process, as with a whole card beside a MIG slice."


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
        with_cuda(replace(devices[d].gpu, index=i), answers.get(_bare(devices[d].gpu.uuid)), host)
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
        links=links(nvml, shown),
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
    whole, whole_index = whole_card(card, host), card["nvml_index"]
    if not card["mig_enabled"]:
        return [_Device(whole, (whole.uuid,), whole_index)]
    return [
        _Device(mig_slice(whole, part, card["total_bytes"]), _slice_names(part, whole), whole_index)
        for part in card["slices"]
    ]


def _slice_names(part: Answer, whole: Gpu) -> tuple[str, ...]:
    """Both spellings: since driver 470, and before."""
    return part["uuid"], f"MIG-{whole.uuid}/{part['gpu_instance']}/{part['compute_instance']}"


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
