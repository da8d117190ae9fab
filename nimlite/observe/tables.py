"""What the commands print about machines and profiles, as tables."""

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from nimlite.probe.machine import Gpu, Link, Machine
from nimlite.profiles.capacity import Capacity
from nimlite.profiles.selection import Candidate, Fit, gibibytes

_STYLES = {
    Fit.RUNNABLE: "green",
    Fit.LOW_MEMORY: "yellow",
    Fit.INCOMPATIBLE: "red",
    Fit.EXCLUDED: "dim",
}


def machine_table(machine: Machine) -> RenderableType:
    """What the probe found, a line a part."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    told: set[str] = set()
    for gpu in machine.gpus:
        _add_gpu(table, gpu, told)
    for way, pairs in _by_way(machine.links).items():
        which = ", ".join(pairs) if len(pairs) < len(machine.links) else "all pairs"
        table.add_row("Links", escape(f"{which}: {way}"))
    for hidden in machine.hidden_gpus:
        table.add_row("Hidden", escape(f"{hidden.name} ({hidden.uuid}): {hidden.reason}"))
    if machine.gpu_problem:
        table.add_row("GPU", escape(f"none: {machine.gpu_problem}"))
    _add_host(table, machine)
    for note in machine.notes:
        table.add_row("Note", escape(note))
    return table


def _add_gpu(table: Table, gpu: Gpu, told: set[str]) -> None:
    """`told`: the rates that stand in the table already, for cards of one kind have the same."""
    shared = " of the host's memory" if gpu.unified_memory else ""
    slice_ = f", MIG slice {gpu.mig.profile}" if gpu.mig else ""
    free = f"{gibibytes(gpu.free_bytes)} of {gibibytes(gpu.total_bytes)} free{shared}"
    table.add_row(
        f"GPU {gpu.index}",
        escape(f"{gpu.name}{slice_} ({gpu.compute_capability}, {gpu.pci_device}), {free}"),
    )
    rates = _rates(gpu.memory_bandwidth, gpu.flops)
    if rates and rates not in told:
        told.add(rates)
        table.add_row("", escape(f"{rates} ({gpu.rates_from})"))
    if gpu.measured_bandwidth or gpu.measured_flops:
        table.add_row("", f"measured: {_rates(gpu.measured_bandwidth, gpu.measured_flops)}")
    if parts := _details(gpu):
        table.add_row("", escape(", ".join(parts)))
    for process in gpu.processes:
        held = gibibytes(process.used_bytes) if process.used_bytes else "an unknown amount"
        table.add_row("", f"process {process.pid} holds {held}")


def _rates(bandwidth: float | None, flops: Mapping[str, float]) -> str:
    """Such as: 4800 GB/s, bf16 990 TFLOP/s, fp8 1979 TFLOP/s."""
    parts = [f"{bandwidth / 1e9:.0f} GB/s"] if bandwidth else []
    parts += [f"{precision} {rate / 1e12:.4g} TFLOP/s" for precision, rate in flops.items()]
    return ", ".join(parts)


def _details(gpu: Gpu) -> list[str]:
    known: list[tuple[object | None, str]] = [
        (gpu.bus_id or None, "at {}"),
        (gpu.multiprocessors, "{} multiprocessors"),
        (gpu.power_limit_watts, "{:.0f} W at most"),
        (gpu.pcie_bandwidth and gpu.pcie_bandwidth / 1e9, "PCIe {:.0f} GB/s"),
        (gpu.numa_node, "NUMA node {}"),
        (None if gpu.ecc is None else "on" if gpu.ecc else "off", "ECC {}"),
    ]
    return [text.format(value) for value, text in known if value is not None]


def _by_way(links: tuple[Link, ...]) -> dict[str, list[str]]:
    """Pairs of GPUs, such as 0-1, by how they are linked."""
    ways: dict[str, list[str]] = {}
    for link in links:
        ways.setdefault(_link(link), []).append("{}-{}".format(*link.gpus))
    return ways


def _link(link: Link) -> str:
    way = f"{link.nvlinks} NVLinks" if link.nvlinks else f"PCIe {link.path}".strip()
    speed = f", {link.bandwidth / 1e9:.0f} GB/s one way" if link.bandwidth else ""
    return f"{way}{speed}, P2P {'yes' if link.p2p else 'no'}"


def _add_host(table: Table, machine: Machine) -> None:
    cpu, memory, disk, software = machine.cpu, machine.memory, machine.disk, machine.software
    cores = f"{cpu.physical_cores} cores, {cpu.logical_cores} threads, {cpu.usable_cores} usable"
    nodes = f", {cpu.numa_nodes} NUMA nodes" if cpu.numa_nodes > 1 else ""
    table.add_row("CPU", f"{cpu.model} ({cpu.architecture}), {cores}{nodes}")
    table.add_row("", " ".join(cpu.features))
    limit = f", limited to {gibibytes(memory.limit_bytes)}" if memory.limit_bytes else ""
    speed = memory.measured_bandwidth or memory.bandwidth
    fast = f", {speed / 1e9:.3g} GB/s" if speed else ""
    free = f"{gibibytes(memory.available_bytes)} of {gibibytes(memory.total_bytes)} available"
    table.add_row("RAM", free + limit + fast)
    speeds = [(disk.read_bandwidth, "reads"), (disk.write_bandwidth, "writes")]
    rates = "".join(f", {verb} {rate / 1e6:.0f} MB/s" for rate, verb in speeds if rate)
    table.add_row("Disk", f"{gibibytes(disk.free_bytes)} free at {disk.path}{rates}")
    versions = f"nimlite {software.nimlite}, Python {software.python}, torch {software.torch}"
    driver = f", driver {software.driver}, CUDA {software.cuda}" if software.driver else ""
    inside = f", in {software.container}" if software.container else ""
    table.add_row("Software", f"{software.os}, {versions}{driver}{inside}")


def candidates_table(family: str, candidates: tuple[Candidate, ...]) -> RenderableType:
    """A family's profiles in their order: those that have a place here one by one, with what they
    need and do, then why they stand there; the others by what keeps them off."""
    title = f"{family} (tokens a second in all, ms to the first token and for each next one)"
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE)
    for heading in ("profile", "needs", "tok/s", "first", "next"):
        table.add_column(heading, no_wrap=True, justify="left" if heading == "profile" else "right")
    placed = [c for c in candidates if c.fit in (Fit.RUNNABLE, Fit.LOW_MEMORY)]
    for candidate in placed:
        fit = candidate.fit
        table.add_row(
            candidate.profile.name,
            f"[{_STYLES[fit]}]{gibibytes(candidate.memory.needed)}[/]",
            *_predicted(candidate),
        )
    # Not in the table: a reason needs the width, and an id that is cut or folded can't be copied.
    reasons = [
        f"{i}. {c.profile.id} ({c.profile.name}) [{_STYLES[c.fit]}]{c.fit}[/]: {escape(c.reason)}"
        for i, c in enumerate(placed, 1)
    ]
    return Group(table, *reasons, *_kept_off(candidates))


def _predicted(candidate: Candidate) -> tuple[str, str, str]:
    found = candidate.prediction
    if found is None:
        return "", "", ""
    return f"{found.total_tok_s:,.0f}", f"{found.ttft * 1e3:,.0f}", f"{found.itl * 1e3:.1f}"


def _kept_off(candidates: tuple[Candidate, ...]) -> list[str]:
    """A line for each reason, with all that it keeps off."""
    names: dict[tuple[Fit, str], list[str]] = {}
    for candidate in candidates:
        if candidate.fit in (Fit.INCOMPATIBLE, Fit.EXCLUDED):
            names.setdefault((candidate.fit, candidate.reason), []).append(candidate.profile.name)
    return [
        f"[{_STYLES[fit]}]{fit}[/]: {escape(reason)} [dim]({len(found)}: {', '.join(found)})[/]"
        for (fit, reason), found in names.items()
    ]


def capacity_table(capacities: Sequence[Capacity]) -> RenderableType:
    """How many requests of a length each profile holds at a time."""
    title = "Requests at a time, by context, and what keys and values may take"
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 0, 0, 1))
    contexts = sorted({context for capacity in capacities for context in capacity.sequences})
    table.add_column("profile", overflow="fold")
    table.add_column("KV cache", no_wrap=True, justify="right")
    for context in contexts:
        table.add_column(f"{context // 1024}k", no_wrap=True, justify="right")
    for capacity in capacities:
        counts = [str(capacity.sequences[context]) for context in contexts]
        table.add_row(capacity.name, gibibytes(capacity.kv_bytes), *counts)
    return table
