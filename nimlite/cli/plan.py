"""A dry run: everything that was decided, and nothing started."""

import dataclasses
import json
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from nimlite.cli.configuration import settings_json, settings_table
from nimlite.cli.profiles import candidate_json
from nimlite.observe.tables import candidates_table, machine_table
from nimlite.profiles.memory import MemoryPlan
from nimlite.profiles.selection import gibibytes
from nimlite.settings import Settings
from nimlite.startup import Plan, foreseen_dense_layers


def plan_json(plan: Plan) -> dict[str, Any]:
    """Machine, ranking, choice, memory and settings."""
    selection = plan.selection
    manifest, chosen = selection.manifest, selection.chosen
    return {
        "machine": json.loads(plan.machine.to_json()),
        "model": {
            "family": manifest.family,
            "uri": manifest.artifact.shown,
            "parameters": manifest.num_parameters,
        },
        "ranking": [candidate_json(candidate) for candidate in selection.candidates],
        "choice": candidate_json(chosen),
        "dense_layers": foreseen_dense_layers(plan),
        "memory": dataclasses.asdict(chosen.memory),
        "settings": settings_json(plan.settings, in_force(plan)),
    }


def plan_view(plan: Plan) -> RenderableType:
    """The same for people."""
    selection, chosen = plan.selection, plan.selection.chosen
    return Group(
        "[bold]Machine[/]",
        machine_table(plan.machine),
        "",
        candidates_table(selection.manifest.family, selection.candidates),
        "",
        f"[bold]Choice[/]\n{chosen.profile.name}\n{chosen.reason}\n"
        f"Dense layers: {escape(foreseen_dense_layers(plan))}.",
        "",
        "[bold]Memory of each device[/]",
        _memory_table(chosen.memory),
        "",
        settings_table(plan.settings, in_force(plan)),
        "",
        "Nothing was started: this was a dry run.",
    )


def in_force(plan: Plan) -> Settings:
    """The settings with what the profile and the machine decided."""
    serving = plan.selection.chosen.serving
    return dataclasses.replace(
        plan.settings,
        model_profile=plan.selection.chosen.profile.id,
        served_model_name=plan.served_names,
        max_model_len=serving.max_model_len,
        max_batch_size=serving.max_batch_size,
        max_num_tokens=serving.max_num_tokens,
        kv_precision=serving.kv_precision,
        num_threads=plan.num_threads,
    )


def _memory_table(memory: MemoryPlan) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, num_bytes in dataclasses.asdict(memory).items():
        table.add_row(name.replace("_", " "), gibibytes(num_bytes))
    return table
