"""Which known card is most like a GPU: by compute capability, memory and bandwidth."""

import math
from collections.abc import Collection

from nimlite.probe.cards import CARDS, Card
from nimlite.probe.machine import Gpu

_GENERATION, _STEP = 4.0, 1.0
"""What another major, or another minor, compute capability weighs beside a factor of e in memory or
bandwidth."""


def nearest_card(gpu: Gpu, among: Collection[Card] = CARDS) -> Card:
    """`among` must not be empty."""
    return min(among, key=lambda card: _distance(gpu, card))


def tuned_card(tag: str, device: str | None) -> Card | None:
    """The card that a manifest's `gpu` and `gpu_device` tags mean; None: it is not known."""
    pci = (device or "").partition(":")[0]
    names = (card for card in CARDS if card.name.removeprefix("NVIDIA ") == tag)
    return next((card for card in CARDS if card.pci == pci), next(names, None))


def capability_of(text: str) -> tuple[int, int]:
    """(9, 0) of "9.0"; (0, 0) where it can't be read."""
    major, _, minor = text.partition(".")
    whole = major.isdecimal() and minor.isdecimal()
    return (int(major), int(minor)) if whole else (0, 0)


def _distance(gpu: Gpu, card: Card) -> float:
    ours, theirs = capability_of(gpu.compute_capability), capability_of(card.capability)
    distance = _GENERATION * abs(ours[0] - theirs[0]) + _STEP * (ours != theirs)
    distance += abs(math.log(max(1, gpu.total_bytes) / (card.mib << 20)))
    if gpu.memory_bandwidth:
        distance += abs(math.log(gpu.memory_bandwidth / (card.gb_s * 1e9)))
    return distance
