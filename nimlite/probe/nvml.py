"""The GPUs, asked in a child process: a driver that hangs or crashes takes the child with it.

Run as a script this file is that child: it prints one JSON object and imports nothing of nimlite.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

TIMEOUT_S = 10.0
_CHILD = (sys.executable, "-P", __file__)


def query_gpus(
    command: Sequence[str] = _CHILD, timeout_s: float = TIMEOUT_S
) -> tuple[dict[str, Any], str | None]:
    """(what NVML says, None), or ({}, why it says nothing).

    Never raises, and never waits much longer than `timeout_s`.
    """
    try:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    except OSError as error:
        return {}, f"The GPU probe could not be started: {error}."
    try:
        output, complaint = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        _abandon(child)
        return {}, f"The GPU driver did not answer within {timeout_s:g} s; see `nvidia-smi`."
    try:
        answer: dict[str, Any] = json.loads(output)
    except ValueError:
        last = complaint.strip().splitlines()[-1:] or ["no output"]
        return {}, f"The GPU probe ended with status {child.returncode}: {last[0]}."
    return answer, answer.pop("problem", None)


def _abandon(child: subprocess.Popen[str]) -> None:
    """Kill the child, but don't wait for it: inside a stuck driver call not even a kill ends it."""
    child.kill()
    with suppress(subprocess.TimeoutExpired):
        child.wait(timeout=1.0)
    for pipe in (child.stdout, child.stderr):
        if pipe is not None:
            pipe.close()


def _ask_nvml() -> dict[str, Any]:
    """In the child."""
    try:
        import pynvml
    except ImportError:
        return {"problem": "nvidia-ml-py is not installed, so GPUs can't be seen."}
    try:
        pynvml.nvmlInit()
        cuda = pynvml.nvmlSystemGetCudaDriverVersion_v2()
        gpus = [_gpu(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())]
        return {
            "driver": pynvml.nvmlSystemGetDriverVersion(),
            "cuda": f"{cuda // 1000}.{cuda % 1000 // 10}",
            "gpus": gpus,
            "problem": None if gpus else "The NVIDIA driver works but shows no GPU.",
        }
    except pynvml.NVMLError_LibraryNotFound:
        return {"problem": "There is no NVIDIA driver on this machine."}
    except pynvml.NVMLError as error:
        return {"problem": f"The NVIDIA driver does not work: {error}."}


def _gpu(pynvml: Any, index: int) -> dict[str, Any]:
    device = pynvml.nvmlDeviceGetHandleByIndex(index)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(device)
    memory = pynvml.nvmlDeviceGetMemoryInfo(device)
    pci = pynvml.nvmlDeviceGetPciInfo(device).pciDeviceId
    return {
        "index": index,
        "name": pynvml.nvmlDeviceGetName(device),
        "uuid": pynvml.nvmlDeviceGetUUID(device),
        "pci_device": f"{pci >> 16:04x}:{pci & 0xFFFF:04x}",
        "compute_capability": f"{major}.{minor}",
        "total_bytes": memory.total,
        "free_bytes": memory.free,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_ask_nvml()))
