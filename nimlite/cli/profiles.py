"""`nimlite list-model-profiles`."""

import dataclasses
from typing import Any

from rich.text import Text

from nimlite.cli.options import JsonOption, ManifestOption, with_settings
from nimlite.cli.session import Session
from nimlite.observe.listing import listing
from nimlite.profiles.selection import Candidate, rank
from nimlite.settings.fields import Group


@with_settings(Group.MODEL, Group.CHOICE, Group.LIMITS)
def list_model_profiles(
    session: Session, manifest_file: ManifestOption = None, as_json: JsonOption = False
) -> None:
    """Rank the model's profiles for this machine, each with its reason."""
    manifest, machine = session.manifest(manifest_file), session.machine()
    ranking = rank(manifest, machine, session.settings)
    data = {"family": manifest.family, "profiles": [candidate_json(c) for c in ranking]}
    session.write(data, Text(listing(machine, ranking)), as_json=as_json)


def candidate_json(candidate: Candidate) -> dict[str, Any]:
    """A profile with all that was found out about it."""
    profile, memory = candidate.profile, candidate.memory
    return {
        "id": profile.id,
        "name": profile.name,
        "state": candidate.fit,
        "reason": candidate.reason,
        "remedy": candidate.remedy,
        "needed_bytes": memory.needed,
        "memory": dataclasses.asdict(memory),
        "serving": dataclasses.asdict(candidate.serving),
    }
