"""Which known card is most like a GPU: by compute capability, memory and bandwidth."""

import math
from collections.abc import Collection

from nimlite.probe.cards import CARDS, Card
from nimlite.probe.machine import Gpu
from nimlite.profiles.manifest import Profile

_GENERATION, _STEP = 4.0, 1.0
"""What another major, or another minor, compute capability weighs beside a factor of e in memory or
bandwidth."""


_GENERIC = 1.5
"""The distance of limits that are not tuned: between those for a near card and those for a far one.
"""


def nearest_card(gpu: Gpu, among: Collection[Card] = CARDS) -> Card:
    """`among` must not be empty."""
    return min(among, key=lambda card: _distance(gpu, card))


def tuned_distance(profile: Profile, gpu: Gpu) -> float:
    """How far the GPU is from the card that the profile's limits are tuned for."""
    if profile.gpu is None:
        return _GENERIC
    pci = profile.tags.get("gpu_device", "").partition(":")[0]
    for card in CARDS:
        if card.pci == pci or card.name.removeprefix("NVIDIA ") == profile.gpu:
            return _distance(gpu, card)
    return math.inf


def capability_of(text: str) -> tuple[int, int]:
    """(9, 0) of "9.0"; (0, 0) where it can't be read."""
    major, _, minor = text.partition(".")
    whole = major.isdecimal() and minor.isdecimal()
    return (int(major), int(minor)) if whole else (0, 0)


def _distance(gpu: Gpu, card: Card) -> float:
    """0 for the card itself."""
    ours, theirs = capability_of(gpu.compute_capability), capability_of(card.capability)
    apart = _GENERATION * abs(ours[0] - theirs[0]) + _STEP * (ours != theirs)
    apart += abs(math.log(max(1, gpu.total_bytes) / (card.mib << 20)))
    if gpu.memory_bandwidth:
        apart += abs(math.log(gpu.memory_bandwidth / (card.gb_s * 1e9)))
    return apart
