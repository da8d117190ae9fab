"""The listing in NIM's layout."""

import dataclasses

from fakes.machines import card, host

from nimlite.observe.listing import listing
from nimlite.profiles.load import load_manifest, profiles_directory
from nimlite.profiles.selection import rank
from nimlite.settings import read_settings

LLAMA = load_manifest(profiles_directory() / "llama3-8b.yaml")


def test_gpus_and_classes_as_nim_lists_them() -> None:
    busy = card("L4", 1, free=2)
    shared = dataclasses.replace(card("L4", 2, free=2), unified_memory=True)
    machine = host([card("L4"), busy, shared])
    ranking = rank(LLAMA, machine, read_settings({"NIM_TAGS_SELECTOR": "precision=fp8"}))
    lines = listing(machine, ranking).splitlines()
    assert lines[:6] == [
        "SYSTEM INFO",
        "- Free GPUs:",
        "  - [27b8:10de] (0) NVIDIA L4 [current memory use: 0%]",
        "  - [27b8:10de] (2) NVIDIA L4 [current memory use: 91%]",
        "- Non-free GPUs:",
        "  - [27b8:10de] (1) NVIDIA L4 [current memory use: 91%]",
    ]
    headings = [line for line in lines if line.startswith("- ")][3:]
    assert headings == [
        "- Compatible with system and runnable:",
        "- Compatible with system but low memory: <None>",
        "- Incompatible with system:",
        "- Left out by your settings:",
    ]
    best = ranking[0]
    first = lines[lines.index(headings[0]) + 1]
    assert first.startswith(f"  - {best.profile.id} ({best.profile.name}) [requires >=")
    assert first.endswith(" GiB per GPU]")
    assert lines[lines.index(headings[0]) + 2].strip() == best.reason


def test_what_does_not_fit_says_what_would_make_it() -> None:
    asked = {"NIM_TAGS_SELECTOR": "precision=fp8,tp=1", "NIM_MAX_MODEL_LEN": "8192"}
    settings = read_settings(asked | {"NIM_MAX_BATCH_SIZE": "1"})
    machines = [host([card("L4", free=gibibytes / 2)]) for gibibytes in range(16, 32)]
    rankings = [rank(LLAMA, machine, settings) for machine in machines]
    low, machine, ranking = next(
        (candidate, machine, ranking)
        for machine, ranking in zip(machines, rankings, strict=True)
        for candidate in ranking
        if candidate.remedy
    )
    assert f"GiB per GPU, try {low.remedy}]" in listing(machine, ranking)
    assert "- Non-free GPUs: <None>" in listing(host(), ranking)
