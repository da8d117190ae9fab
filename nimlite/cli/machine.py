"""`nimlite probe`."""

import json

from nimlite.cli.options import JsonOption, with_settings
from nimlite.cli.session import Session
from nimlite.observe.tables import machine_table


@with_settings()
def probe(session: Session, as_json: JsonOption = False) -> None:
    """Show what this machine has: GPUs, CPU, memory, disk, versions."""
    machine = session.machine()
    session.write(json.loads(machine.to_json()), machine_table(machine), as_json=as_json)
