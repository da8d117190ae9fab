"""What fits: how many requests of which length a profile holds at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nimlite.profiles.candidate import Candidate, Fit
from nimlite.profiles.manifest import Manifest
from nimlite.profiles.memory import kv_bytes

CONTEXTS = (1024, 4096, 8192, 16384, 32768, 65536, 131072)
"""Tokens of a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """Of one profile on one machine."""

    name: str
    place: str
    kv_bytes: int
    """A GPU, or of the host: what is left for keys and values."""
    sequences: Mapping[int, int] = field(default_factory=dict)
    """By context: requests of that length at a time, within the profile's batch."""


def capacities(manifest: Manifest, candidates: Sequence[Candidate]) -> tuple[Capacity, ...]:
    """Of every profile that has a place on the machine, in the candidates' order; all zero where
    the weights alone are too large."""
    placed = (c for c in candidates if c.fit in (Fit.RUNNABLE, Fit.LOW_MEMORY))
    return tuple(_capacity(manifest, candidate) for candidate in placed)


def _capacity(manifest: Manifest, candidate: Candidate) -> Capacity:
    serving, memory = candidate.serving, candidate.memory
    left = max(0, memory.budget - memory.fixed)
    wanted = candidate.profile.kv_cache_bytes
    pool = left if wanted is None else min(left, max(wanted, memory.kv_cache))
    contexts = [c for c in CONTEXTS if c <= manifest.shape.max_positions]
    return Capacity(
        name=candidate.profile.name,
        place=candidate.place,
        kv_bytes=pool,
        sequences={
            context: min(serving.max_batch_size, pool // kv_bytes(manifest.shape, serving, context))
            for context in contexts
        },
    )
