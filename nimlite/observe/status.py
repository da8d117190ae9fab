"""What was decided for the server that runs, as plain data: the status page shows it."""

from typing import Any

from nimlite.probe.machine import Machine
from nimlite.profiles.selection import Selection, gibibytes

_PARTS = ("weights", "kv_cache", "activations", "graphs", "runtime")
_NAMES = {"kv_cache": "KV cache", "activations": "buffers", "graphs": "recorded steps"}


def plan_status(machine: Machine, selection: Selection) -> dict[str, Any]:
    """The machine in a few lines, the profile with its reason and memory, the other profiles."""
    chosen = selection.chosen
    memory = {name: getattr(chosen.memory, name) for name in _PARTS}
    return {
        "profile": chosen.profile.name,
        "reason": chosen.reason,
        "memory": [
            {"name": _NAMES.get(name, name), "bytes": num_bytes}
            for name, num_bytes in memory.items()
            if num_bytes
        ],
        "machine": _machine(machine),
        "ranking": [
            {"name": other.profile.name, "status": other.fit, "reason": other.reason}
            for other in selection.candidates
            if other.profile.id != chosen.profile.id
        ],
    }


def _machine(machine: Machine) -> list[str]:
    cpu = machine.cpu
    gpus = [f"{gpu.name}, {gibibytes(gpu.total_bytes)}" for gpu in machine.gpus]
    return [
        *(gpus or [f"No GPU: {machine.gpu_problem}" if machine.gpu_problem else "No GPU"]),
        f"{cpu.model}, {cpu.usable_cores} usable core(s)",
        f"{gibibytes(machine.memory.available_bytes)} of memory available",
    ]
