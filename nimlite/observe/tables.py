"""What the commands print about machines and profiles, as tables."""

from rich.console import Group, RenderableType
from rich.table import Table

from nimlite.probe.machine import Machine
from nimlite.profiles.selection import Candidate, Fit, gibibytes

_STYLES = {
    Fit.RUNNABLE: "green",
    Fit.LOW_MEMORY: "yellow",
    Fit.INCOMPATIBLE: "red",
    Fit.EXCLUDED: "dim",
}


def machine_table(machine: Machine) -> RenderableType:
    """What the probe found, a line a part."""
    cpu, memory, disk, software = machine.cpu, machine.memory, machine.disk, machine.software
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for gpu in machine.gpus:
        free = f"{gibibytes(gpu.free_bytes)} of {gibibytes(gpu.total_bytes)} free"
        table.add_row(f"GPU {gpu.index}", f"{gpu.name} ({gpu.compute_capability}), {free}")
    if machine.gpu_problem:
        table.add_row("GPU", f"none: {machine.gpu_problem}")
    cores = f"{cpu.physical_cores} cores, {cpu.logical_cores} threads, {cpu.usable_cores} usable"
    table.add_row("CPU", f"{cpu.model} ({cpu.architecture}), {cores}")
    table.add_row("", " ".join(cpu.features))
    limit = f", limited to {gibibytes(memory.limit_bytes)}" if memory.limit_bytes else ""
    free = f"{gibibytes(memory.available_bytes)} of {gibibytes(memory.total_bytes)} available"
    table.add_row("RAM", free + limit)
    table.add_row("Disk", f"{gibibytes(disk.free_bytes)} free at {disk.path}")
    versions = f"nimlite {software.nimlite}, Python {software.python}, torch {software.torch}"
    driver = f", driver {software.driver}, CUDA {software.cuda}" if software.driver else ""
    table.add_row("Software", f"{software.os}, {versions}{driver}")
    return table


def candidates_table(family: str, candidates: tuple[Candidate, ...]) -> RenderableType:
    """A family's profiles in their order, each with what it needs and why it stands there."""
    table = Table(title=family, title_justify="left", title_style="bold", expand=False)
    for heading in ("profile", "state", "needs", "why"):
        table.add_column(heading, overflow="fold")
    for candidate in candidates:
        fit = candidate.fit
        table.add_row(
            candidate.profile.name,
            f"[{_STYLES[fit]}]{fit}[/]",
            gibibytes(candidate.memory.needed),
            candidate.reason,
        )
    # Not in the table, for an id that is cut or folded can't be copied.
    ids = "\n".join(f"{c.profile.id} ({c.profile.name})" for c in candidates)
    return Group(table, ids)
