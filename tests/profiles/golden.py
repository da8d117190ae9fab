"""The choices for every recorded machine and family: `python tests/profiles/golden.py` writes them
to tests/profiles/golden/.

A file a machine, a line a choice: by this version ("now"), and as if "everything" could be
executed, or one line where "both" are the same. The reason is the one that the user reads; it is
what defends the choice.
"""

import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from nimlite.errors import SettingError
from nimlite.probe.machine import Machine, machines_directory
from nimlite.profiles.load import load_manifests, profiles_directory
from nimlite.profiles.manifest import Device, Manifest, Precision
from nimlite.profiles.selection import select
from nimlite.profiles.support import THIS_VERSION, Support
from nimlite.settings import read_settings

DIRECTORY = Path(__file__).parent / "golden"
MANIFESTS = load_manifests(profiles_directory())
MACHINES = sorted(machines_directory().glob("*.json"))
EVERYTHING = replace(
    THIS_VERSION,
    architectures=tuple(sorted({m.shape.architecture for m in MANIFESTS})),
    precisions=dict.fromkeys(Device, tuple(Precision)),
    max_tp=8,
    max_pp=8,
)
SETTINGS = read_settings({})


def choices(machine: Machine) -> str:
    """The file's text."""
    return "".join(f"{line}\n" for line in _lines(machine))


def _lines(machine: Machine) -> Iterator[str]:
    for manifest in MANIFESTS:
        now = _choice(manifest, machine, THIS_VERSION)
        later = _choice(manifest, machine, EVERYTHING)
        if now == later:
            yield f"{manifest.family} | both | {now}"
        else:
            yield f"{manifest.family} | now | {now}"
            yield f"{manifest.family} | everything | {later}"


def _choice(manifest: Manifest, machine: Machine, support: Support) -> str:
    try:
        chosen = select(manifest, machine, SETTINGS, support).chosen
    except SettingError as error:
        return f"refused | {error}"
    gpus = ",".join(map(str, chosen.gpus)) or "-"
    context = chosen.serving.max_model_len
    return (
        f"{chosen.profile.name} | gpus {gpus} | context {context} | {chosen.fit} | {chosen.reason}"
    )


if __name__ == "__main__":
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    DIRECTORY.mkdir()
    for file in MACHINES:
        (DIRECTORY / f"{file.stem}.txt").write_text(choices(Machine.load(file)), encoding="utf-8")
    sys.stdout.write(f"{len(MACHINES)} files in {DIRECTORY}\n")
