"""`nimlite probe`."""

import json
import logging
from pathlib import Path
from typing import Annotated

import typer

from nimlite.cli.options import JsonOption, with_settings
from nimlite.cli.session import Session
from nimlite.observe.tables import machine_table
from nimlite.probe.measured import measure_machine

_log = logging.getLogger(__name__)


@with_settings()
def probe(
    session: Session,
    as_json: JsonOption = False,
    save: Annotated[
        Path | None, typer.Option(help="Write the machine to this file, for --machine.")
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure", help="Time memory, arithmetic and disk too, and keep it in the cache."
        ),
    ] = False,
) -> None:
    """Show what this machine has: GPUs and their links, CPU, memory, disk, versions."""
    if measure:
        session.require_this_machine()
        _, problem = measure_machine(session.settings.cache_path)
        if problem:
            _log.warning("%s", problem)
    machine = session.machine()
    if save is not None:
        machine.save(save)
    session.write(json.loads(machine.to_json()), machine_table(machine), as_json=as_json)
