"""No choice changes unnoticed: each is compared with the committed one, reason and all."""

from pathlib import Path

import pytest
from golden import DIRECTORY, MACHINES, choices

from nimlite.probe.machine import Machine


def test_every_machine_has_its_choices() -> None:
    assert {f.stem for f in DIRECTORY.glob("*.txt")} == {f.stem for f in MACHINES}, (
        "write them anew: python tests/profiles/golden.py"
    )
    assert len(MACHINES) > 50


@pytest.mark.parametrize("file", MACHINES, ids=[file.stem for file in MACHINES])
def test_the_choices_are_the_committed_ones(file: Path) -> None:
    committed = (DIRECTORY / f"{file.stem}.txt").read_text(encoding="utf-8").splitlines()
    found = choices(Machine.load(file)).splitlines()
    changed = [f"- {old}\n+ {new}" for old, new in zip(committed, found, strict=True) if old != new]
    assert not changed, (
        "Where these changes are meant, write them with `python tests/profiles/golden.py` and "
        "defend them in the commit:\n" + "\n".join(changed)
    )
