"""The profiles as NIM's list-model-profiles lists them, each with the reason for its place."""

from collections.abc import Sequence

from nimlite.probe.machine import Gpu, Machine
from nimlite.profiles.manifest import Device
from nimlite.profiles.selection import Candidate, Fit, gibibytes

_FREE = 0.95
"""A GPU with less of its memory free has other users."""
_HEADINGS = {
    Fit.RUNNABLE: "Compatible with system and runnable",
    Fit.LOW_MEMORY: "Compatible with system but low memory",
    Fit.INCOMPATIBLE: "Incompatible with system",
    Fit.EXCLUDED: "Left out by your settings",
}


def listing(machine: Machine, ranking: Sequence[Candidate]) -> str:
    """Plain text: what the machine has, then the profiles by class, best first."""
    return "\n".join([*_system(machine), *_profiles(ranking)])


def _system(machine: Machine) -> list[str]:
    free = [gpu for gpu in machine.gpus if _is_free(gpu)]
    others = [gpu for gpu in machine.gpus if gpu not in free]
    cpu, memory = machine.cpu, machine.memory
    problem = [f"- No GPU: {machine.gpu_problem}"] if machine.gpu_problem else []
    return [
        "SYSTEM INFO",
        *_section("Free GPUs", map(_gpu, free)),
        *_section("Non-free GPUs", map(_gpu, others)),
        *problem,
        f"- CPU: {cpu.model}, {cpu.usable_cores} usable cores, "
        f"{gibibytes(memory.available_bytes)} of memory available",
    ]


def _profiles(ranking: Sequence[Candidate]) -> list[str]:
    lines = ["MODEL PROFILES"]
    for fit, heading in _HEADINGS.items():
        found = [_profile(candidate) for candidate in ranking if candidate.fit is fit]
        if found or fit is not Fit.EXCLUDED:
            lines += _section(heading, found)
    return lines


def _section(heading: str, items: "Sequence[str] | map[str]") -> list[str]:
    lines = [f"  - {item}" for item in items]
    return [f"- {heading}:", *lines] if lines else [f"- {heading}: <None>"]


def _is_free(gpu: Gpu) -> bool:
    """Where the GPU shares the host's memory, what is taken is not taken from it alone."""
    return gpu.unified_memory or gpu.free_bytes >= _FREE * gpu.total_bytes


def _gpu(gpu: Gpu) -> str:
    used = 1 - gpu.free_bytes / max(1, gpu.total_bytes)
    return f"[{gpu.pci_device}] ({gpu.index}) {gpu.name} [current memory use: {used:.0%}]"


def _profile(candidate: Candidate) -> str:
    profile = candidate.profile
    each = "of memory" if profile.device is Device.CPU else "per GPU"
    needs = f"requires >={gibibytes(candidate.memory.needed)} {each}"
    remedy = f", try {candidate.remedy}" if candidate.remedy else ""
    return f"{profile.id} ({profile.name}) [{needs}{remedy}]\n      {candidate.reason}"
