"""A profile, judged for a machine; and the choice among them."""

import enum
from dataclasses import dataclass

from nimlite.profiles.manifest import Manifest, Profile
from nimlite.profiles.memory import MemoryPlan
from nimlite.profiles.roofline import Prediction


class Fit(enum.StrEnum):
    """What a profile is on this machine, best first."""

    RUNNABLE = "runnable"
    LOW_MEMORY = "low memory"
    INCOMPATIBLE = "incompatible"
    EXCLUDED = "excluded"
    """The user's settings leave it out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One profile, judged."""

    profile: Profile
    """As the manifest has it: what an engine is built for."""
    serving: Profile
    """As it will run: with the user's limits, the context that fits, and the KV cache that the
    memory allows."""
    memory: MemoryPlan
    """Of the GPU that has least, or of the host."""
    fit: Fit
    reason: str
    """Why it stands where it does, in a few sentences."""
    remedy: str | None = None
    """The setting that would make it fit, such as NIM_MAX_MODEL_LEN=4096."""
    longest_context: int = 0
    """Where memory is too low: tokens of context that would fit, as the remedy says; else 0."""
    gpus: tuple[int, ...] = ()
    """`Gpu.index` of those that it takes, the first rank's first; empty on the CPU."""
    prediction: Prediction | None = None
    """None: it can't run here."""
    score: float = 0.0
    """What the goal makes of the prediction; higher is better, and only within one ranking."""
    replicas: int = 0
    """How many more of it the other GPUs could hold."""
    tuned: float = 0.0
    """How far its card is from the one that its limits are tuned for: between equals the nearer."""
    others_bytes: int = 0
    """What other processes hold of the memory of the GPU that has least."""
    place: str = ""
    """The cards that it runs on, for people: NVIDIA H200 (GPU 0)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The choice, and all that it was chosen from, best first."""

    manifest: Manifest
    chosen: Candidate
    candidates: tuple[Candidate, ...]


def gibibytes(num_bytes: int) -> str:
    """Such as 1.25 GiB."""
    return f"{num_bytes / (1 << 30):.2f} GiB"
