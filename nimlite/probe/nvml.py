"""What the driver says about the GPUs. Run as a script, in a child: one JSON object on stdout.

It imports nothing of nimlite. What a card or an old driver does not know is null: only a card that
does not answer at all is left out, under `lost`.
"""

import json
import sys
from itertools import combinations
from typing import Any

_PATHS = {0: "PIX", 10: "PIX", 20: "PXB", 30: "PHB", 40: "NODE", 50: "SYS"}
"""nvmlGpuTopologyLevel_t, as `nvidia-smi topo -m` writes it."""
_P2P_READ, _P2P_WRITE, _P2P_NVLINK, _P2P_OK = 0, 1, 2, 0
_CLOCK_SM, _CLOCK_MEMORY = 1, 2
_SWITCH = 2
"""nvmlNvLinkDeviceType_t"""
_MAX_LINKS = 36


def ask_nvml() -> dict[str, Any]:
    """All answers, or the `problem` that kept them away."""
    try:
        import pynvml
    except ImportError:
        return {"problem": "nvidia-ml-py is not installed, so GPUs can't be seen."}
    return read_machine(pynvml)


def read_machine(nvml: Any) -> dict[str, Any]:
    """Driver, GPUs and the links between them; `nvml` is pynvml, or a test's stand-in."""
    try:
        nvml.nvmlInit()
        cuda = nvml.nvmlSystemGetCudaDriverVersion_v2()
        driver = nvml.nvmlSystemGetDriverVersion()
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError_LibraryNotFound:
        return {"problem": "There is no NVIDIA driver on this machine."}
    except nvml.NVMLError as error:
        return {"problem": f"The NVIDIA driver does not work: {error}."}
    handles, gpus, lost = {}, [], []
    for index in range(count):
        try:
            handles[index] = nvml.nvmlDeviceGetHandleByIndex(index)
            gpus.append(_gpu(nvml, handles[index], index))
        except nvml.NVMLError as error:
            handles.pop(index, None)
            lost.append({"nvml_index": index, "problem": str(error)})
    return {
        "driver": driver,
        "cuda": f"{cuda // 1000}.{cuda % 1000 // 10}",
        "gpus": gpus,
        "lost": lost,
        "links": _links(nvml, handles, {gpu["nvml_index"]: gpu["bus_id"] for gpu in gpus}),
        "problem": None if gpus else _no_gpu(lost),
    }


def _no_gpu(lost: list[dict[str, Any]]) -> str:
    if lost:
        return f"No GPU answers: {lost[0]['problem']}."
    return "The NVIDIA driver works but shows no GPU."


def _maybe(nvml: Any, function: str, *arguments: Any) -> Any:
    """The answer, or None where the card, the driver or the binding has none."""
    try:
        return getattr(nvml, function)(*arguments)
    except (nvml.NVMLError, AttributeError):
        return None


def _gpu(nvml: Any, device: Any, index: int) -> dict[str, Any]:
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(device)
    pci = nvml.nvmlDeviceGetPciInfo(device)
    mode = _maybe(nvml, "nvmlDeviceGetMigMode", device)
    limit = _maybe(nvml, "nvmlDeviceGetEnforcedPowerLimit", device)
    ecc = _maybe(nvml, "nvmlDeviceGetEccMode", device)
    node = _maybe(nvml, "nvmlDeviceGetNumaNodeId", device)
    return {
        "nvml_index": index,
        "name": _text(nvml.nvmlDeviceGetName(device)),
        "uuid": _text(nvml.nvmlDeviceGetUUID(device)),
        "bus_id": _text(pci.busId),
        "pci_device": f"{pci.pciDeviceId >> 16:04x}:{pci.pciDeviceId & 0xFFFF:04x}",
        "compute_capability": f"{major}.{minor}",
        **_memory(nvml, device),
        "cores": _maybe(nvml, "nvmlDeviceGetNumGpuCores", device),
        "bus_bits": _maybe(nvml, "nvmlDeviceGetMemoryBusWidth", device),
        "memory_mhz": _maybe(nvml, "nvmlDeviceGetMaxClockInfo", device, _CLOCK_MEMORY),
        "sm_mhz": _maybe(nvml, "nvmlDeviceGetMaxClockInfo", device, _CLOCK_SM),
        "pcie_generation": _maybe(nvml, "nvmlDeviceGetMaxPcieLinkGeneration", device),
        "pcie_lanes": _maybe(nvml, "nvmlDeviceGetMaxPcieLinkWidth", device),
        "memory_node": node if node is not None and node >= 0 else None,
        "mig_enabled": None if mode is None else bool(mode[0]),
        "slices": _slices(nvml, device) if mode is not None and mode[0] else [],
        "ecc": None if ecc is None else bool(ecc[0]),
        "power_limit_watts": None if limit is None else limit / 1000,
        "processes": _processes(nvml, device),
    }


def _memory(nvml: Any, device: Any) -> dict[str, Any]:
    memory = _maybe(nvml, "nvmlDeviceGetMemoryInfo", device)
    if memory is None or not memory.total:
        return {"total_bytes": None, "free_bytes": None}
    return {"total_bytes": memory.total, "free_bytes": memory.free}


def _processes(nvml: Any, device: Any) -> list[dict[str, Any]]:
    found = _maybe(nvml, "nvmlDeviceGetComputeRunningProcesses", device) or []
    return [{"pid": process.pid, "used_bytes": process.usedGpuMemory} for process in found]


def _slices(nvml: Any, device: Any) -> list[dict[str, Any]]:
    """The MIG slices, those without a permission left out."""
    found = []
    for index in range(_maybe(nvml, "nvmlDeviceGetMaxMigDeviceCount", device) or 0):
        handle = _maybe(nvml, "nvmlDeviceGetMigDeviceHandleByIndex", device, index)
        if handle is None:
            continue
        attributes = _maybe(nvml, "nvmlDeviceGetAttributes", handle)
        found.append(
            {
                "name": _text(_maybe(nvml, "nvmlDeviceGetName", handle) or ""),
                "uuid": _text(_maybe(nvml, "nvmlDeviceGetUUID", handle) or ""),
                **_memory(nvml, handle),
                "gpu_instance": _maybe(nvml, "nvmlDeviceGetGpuInstanceId", handle),
                "compute_instance": _maybe(nvml, "nvmlDeviceGetComputeInstanceId", handle),
                "multiprocessors": attributes and attributes.multiprocessorCount,
                "size_bytes": attributes and attributes.memorySizeMB << 20,
                "processes": _processes(nvml, handle),
            }
        )
    return found


def _links(nvml: Any, handles: dict[int, Any], bus_ids: dict[int, str]) -> list[dict[str, Any]]:
    """One entry a pair of GPUs, by their NVML indices."""
    ends = {index: _link_ends(nvml, device) for index, device in handles.items()}
    links = []
    for a, b in combinations(sorted(handles), 2):
        pair = handles[a], handles[b]
        level = _maybe(nvml, "nvmlDeviceGetTopologyCommonAncestor", *pair)
        direct = sum(bus_id == bus_ids[b].lower() for bus_id, _ in ends[a])
        switched = min(sum(is_switch for _, is_switch in ends[i]) for i in (a, b))
        if not direct and not switched and _p2p(nvml, pair, _P2P_NVLINK):
            direct = min(len(ends[a]), len(ends[b]))  # a virtual machine hides what is at the end
        links.append(
            {
                "gpus": [a, b],
                "nvlinks": direct or switched,
                "nvlink_version": _maybe(nvml, "nvmlDeviceGetNvLinkVersion", handles[a], 0),
                "p2p": all(_p2p(nvml, pair, capability) for capability in (_P2P_READ, _P2P_WRITE)),
                "path": _PATHS.get(level, ""),
            }
        )
    return links


def _p2p(nvml: Any, pair: tuple[Any, Any], capability: int) -> bool:
    status = _maybe(nvml, "nvmlDeviceGetP2PStatus", *pair, capability)
    return status is not None and int(status) == _P2P_OK


def _link_ends(nvml: Any, device: Any) -> list[tuple[str, bool]]:
    """(PCI address, is a switch) at the far end of each active NVLink."""
    found = []
    for link in range(_MAX_LINKS):
        if _maybe(nvml, "nvmlDeviceGetNvLinkState", device, link):
            remote = _maybe(nvml, "nvmlDeviceGetNvLinkRemotePciInfo", device, link)
            kind = _maybe(nvml, "nvmlDeviceGetNvLinkRemoteDeviceType", device, link)
            bus_id = "" if remote is None else _text(remote.busId).lower()
            found.append((bus_id, kind == _SWITCH))
    return found


def _text(value: str | bytes) -> str:
    """The binding's early releases, and its structures, hold bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


if __name__ == "__main__":
    sys.stdout.write(json.dumps(ask_nvml()))
