"""What to say where no profile can run: what is missing, and the smallest machine that would do."""

from dataclasses import replace

from nimlite.probe.machine import Machine
from nimlite.profiles.candidate import Candidate, Fit, gibibytes
from nimlite.profiles.compatibility import least_capability
from nimlite.profiles.judge import SHARE
from nimlite.profiles.manifest import Device, Manifest
from nimlite.profiles.memory import plan_memory
from nimlite.profiles.support import Support
from nimlite.settings import Settings

_CONTEXT = 512
"""Tokens that a server must be able to take to be of any use."""


def refusal(
    manifest: Manifest,
    candidates: tuple[Candidate, ...],
    machine: Machine,
    settings: Settings,
    support: Support,
) -> str:
    """One sentence, and where to read more."""
    judged = [c for c in candidates if c.fit is not Fit.EXCLUDED]
    possible = [c for c in judged if support.reason(manifest, c.serving) is None]
    if not possible:
        return f"{judged[0].reason} No profile of {manifest.family} can run until it can."
    context = settings.max_model_len or min(_CONTEXT, manifest.shape.max_positions)
    needs = {device: _smallest(manifest, possible, device, context) for device in Device}
    offers = []
    if smallest := needs[Device.GPU]:
        size, candidate = smallest
        major, minor = least_capability(candidate.serving)
        count = candidate.profile.num_gpus
        cards = "one GPU" if count == 1 else f"{count} GPUs"
        offers.append(
            f"{cards} of compute capability {major}.{minor} with {gibibytes(size)} free "
            f"({candidate.profile.name})"
        )
    if smallest := needs[Device.CPU]:
        size, candidate = smallest
        offers.append(f"a host with {gibibytes(size)} of memory free ({candidate.profile.name})")
    return (
        f"No profile of {manifest.family} can run here with a context of {context} tokens: "
        f"{_found(machine)}. It takes {', or '.join(offers)}. "
        "`nimlite list-model-profiles` has the reason of each profile."
    )


def _smallest(
    manifest: Manifest, candidates: list[Candidate], device: Device, context: int
) -> tuple[int, Candidate] | None:
    """The free bytes a device that the least demanding profile takes, on fewest devices."""
    sizes = [
        (c.profile.num_gpus, int(needed / SHARE) + 1, index)
        for index, c in enumerate(candidates)
        if c.profile.device is device
        and (
            needed := plan_memory(
                manifest.shape, replace(c.serving, max_model_len=context), 0
            ).needed
        )
    ]
    if not sizes:
        return None
    _, size, index = min(sizes)
    return size, candidates[index]


def _found(machine: Machine) -> str:
    gpus = ", ".join(f"{gpu.name} with {gibibytes(gpu.free_bytes)} free" for gpu in machine.gpus)
    memory = gibibytes(machine.memory.available_bytes)
    return f"there is {gpus or 'no GPU'}, and {memory} of host memory"
