"""The data sheets' table: what its rows must agree with."""

import pytest

from nimlite.probe.cards import (
    CARDS,
    Card,
    estimated_flops,
    find_card,
    multiprocessors,
    pcie_bytes_per_s,
)

SLOW_SUMS = {"NVIDIA A10G", "NVIDIA L40"}
"""As GeForce cards, by their data sheets."""


def test_no_card_stands_twice() -> None:
    assert len({card.name for card in CARDS}) == len({card.pci for card in CARDS}) == len(CARDS)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_the_rates_of_a_card_agree_with_its_multiprocessors(card: Card) -> None:
    """All rates follow from one boost clock, which is a clock that NVIDIA sells."""
    at_1_hz = estimated_flops(card.name, card.capability, card.sms, 1.0)
    if card.name in SLOW_SUMS:
        at_1_hz = {p: rate if p == "fp32" else rate / 2 for p, rate in at_1_hz.items()}
    gigahertz = {p: rate * 1e3 / at_1_hz[p] for p, rate in card.tflops.items()}
    assert all(1.3 < clock < 2.7 for clock in gigahertz.values())
    # Hopper's and Blackwell's sheets count tensor cores at a lower clock than the others.
    assert max(gigahertz.values()) < 1.16 * min(gigahertz.values())
    assert set(at_1_hz) - {"int8"} <= set(card.tflops)
    assert card.source


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_the_driver_shows_the_data_sheets_memory(card: Card) -> None:
    """NVIDIA's GB are GiB, less a sixteenth for ECC in GDDR memory, and a GB10's carve-out."""
    gib = card.mib / 1024
    kept = 15 / 16 if gib < 0.95 * card.gigabytes else 1.0
    assert gib == pytest.approx(kept * card.gigabytes, rel=0.05)
    assert kept == 1.0 or card.name.startswith(("Tesla T4", "NVIDIA A10", "NVIDIA A40", "NVIDIA L",
                                                "NVIDIA GB10"))  # fmt: skip


def test_names_of_old_and_new_drivers() -> None:
    assert find_card("Tesla T4") is find_card("NVIDIA T4") is not None
    assert find_card("GeForce RTX 3090") is find_card("NVIDIA GeForce RTX 3090") is not None
    assert find_card("NVIDIA H200 NVL") is not find_card("NVIDIA H200")
    assert find_card("NVIDIA H300") is None


def test_a_card_of_a_generation_to_come_has_fp32_alone() -> None:
    assert estimated_flops("NVIDIA Z1", "99.0", 10, 1e9) == {"fp32": 2.0 * 128 * 10 * 1e9}
    assert multiprocessors(6912, "8.0") == 108
    assert multiprocessors(16896, "9.0") == 132


@pytest.mark.parametrize(("generation", "gb_s"), [(3, 15.75), (4, 31.5), (5, 63.0)])
def test_pcie(generation: int, gb_s: float) -> None:
    assert pcie_bytes_per_s(generation, 16) == pytest.approx(gb_s * 1e9, rel=0.001)
