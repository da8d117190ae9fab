"""`nimlite list-model-profiles`."""

import dataclasses
from typing import Annotated, Any

import typer
from rich.text import Text

from nimlite.cli.options import JsonOption, ManifestOption, with_settings
from nimlite.cli.session import Session
from nimlite.observe.listing import listing
from nimlite.observe.tables import capacity_table
from nimlite.profiles.capacity import capacities
from nimlite.profiles.roofline import Prediction
from nimlite.profiles.selection import Candidate, rank
from nimlite.settings.fields import Group

MemoryOption = Annotated[
    bool,
    typer.Option("--memory", help="Show how many requests of which length each profile holds."),
]


@with_settings(Group.MODEL, Group.CHOICE, Group.LIMITS)
def list_model_profiles(
    session: Session,
    manifest_file: ManifestOption = None,
    memory: MemoryOption = False,
    as_json: JsonOption = False,
) -> None:
    """Rank the model's profiles for this machine, each with its reason."""
    manifest, machine = session.manifest(manifest_file), session.machine()
    ranking = rank(manifest, machine, session.settings)
    if memory:
        held = capacities(manifest, ranking)
        rows = [dataclasses.asdict(capacity) for capacity in held]
        return session.write(rows, capacity_table(held), as_json=as_json)
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
        "gpus": candidate.gpus,
        "replicas": candidate.replicas,
        "prediction": prediction_json(candidate.prediction),
    }


def prediction_json(prediction: Prediction | None) -> dict[str, Any] | None:
    """Rounded, for it is a prediction."""
    if prediction is None:
        return None
    return {
        **dataclasses.asdict(prediction.load),
        "ttft_ms": round(prediction.ttft * 1e3, 1),
        "itl_ms": round(prediction.itl * 1e3, 2),
        "stream_tok_s": round(prediction.stream_tok_s, 1),
        "total_tok_s": round(prediction.total_tok_s, 1),
        "source": prediction.source,
    }
