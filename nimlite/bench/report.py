"""The results of a benchmark for people, for programs and for the documentation."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table

from nimlite.bench.quality import Quality
from nimlite.bench.server import Footprint
from nimlite.bench.timing import Measurement, Percentiles
from nimlite.errors import SettingError

_GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Where and when it was measured."""

    machine: str
    date: str
    commit: str
    versions: str
    load: float
    """Processes that ran or waited before it, in the mean of a minute; 0 on a quiet machine."""
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that one benchmark found."""

    environment: Environment
    measurements: tuple[Measurement, ...] = ()
    footprints: tuple[Footprint, ...] = ()
    qualities: tuple[Quality, ...] = ()

    def json_lines(self) -> str:
        """A line an object; `kind` tells which."""
        return "".join(json.dumps(line) + "\n" for line in self._lines())

    def _lines(self) -> Iterable[dict[str, Any]]:
        yield {"kind": "environment", **asdict(self.environment)}
        for m in self.measurements:
            yield {"kind": "measurement", **asdict(m), "output_tok_s": m.output_tok_s}
        yield from ({"kind": "footprint", **asdict(f)} for f in self.footprints)
        yield from ({"kind": "quality", **asdict(q)} for q in self.qualities)


@dataclass(frozen=True, slots=True)
class Grid:
    """A table before it has a form. The first columns name the row, as many as `num_keys`."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    num_keys: int = 2

    def rich(self) -> RenderableType:
        table = Table(title=self.title, title_justify="left", title_style="bold")
        for i, heading in enumerate(self.headings):
            is_key = i < self.num_keys
            table.add_column(heading, justify="left" if is_key else "right", no_wrap=is_key)
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        ruler = ["---" if i < self.num_keys else "---:" for i in range(len(self.headings))]
        lines = [self.headings, ruler, *self.rows]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return f"**{self.title}**\n\n{table}"


def grids(report: Report) -> list[Grid]:
    """The report's tables; those that would be empty are left out."""
    tables = [
        _speed(report.measurements),
        _latency(report.measurements),
        _footprint(report.footprints),
        _quality(report.qualities),
    ]
    return [table for table in tables if table.rows]


def _speed(measurements: Sequence[Measurement]) -> Grid:
    """A row a system, a column a workload: one stream by its decoding, several by their sum."""
    workloads = sorted({m.workload.concurrency: m.workload for m in measurements}.items())
    found = {(m.system, m.variant, m.workload.concurrency): m for m in measurements}
    systems = dict.fromkeys((m.system, m.variant) for m in measurements)
    rows = []
    for system, variant in systems:
        row = [system, variant]
        for concurrency, _ in workloads:
            m = found.get((system, variant, concurrency))
            row.append("" if m is None else f"{_throughput(m):.0f}")
        rows.append(tuple(row))
    names = tuple(f"{w.name}, {'decode' if w.concurrency == 1 else 'total'}" for _, w in workloads)
    return Grid("Output tokens a second", ("system", "weights", *names), tuple(rows))


def _throughput(m: Measurement) -> float:
    return m.decode_tok_s if m.workload.concurrency == 1 else m.output_tok_s


def _latency(measurements: Sequence[Measurement]) -> Grid:
    headings = ("first, p50", "p99", "between, p50", "p99", "client, % of a core")
    rows = tuple(
        (
            m.system,
            m.variant,
            m.workload.name,
            *_milliseconds(m.time_to_first_token_ms),
            *_milliseconds(m.inter_token_ms),
            f"{m.client_cpu_s / m.seconds * 100:.1f}",
        )
        for m in measurements
    )
    keys = ("system", "weights", "workload")
    return Grid(
        "To the first token and between tokens, ms", (*keys, *headings), rows, num_keys=len(keys)
    )


def _milliseconds(percentiles: Percentiles) -> tuple[str, str]:
    p50, p99 = (f"{t:.1f}" if t < 100 else f"{t:.0f}" for t in astuple(percentiles))
    return p50, p99


def _footprint(footprints: Sequence[Footprint]) -> Grid:
    rows = tuple(
        (
            f.system,
            f.variant,
            f"{f.start_s:.1f}",
            f"{f.ready_rss / _GIB:.2f}",
            f"{f.peak_rss / _GIB:.2f}",
        )
        for f in footprints
    )
    headings = ("system", "weights", "ready after, s", "GiB when ready", "GiB at most")
    return Grid("Start with everything cached, and resident memory", headings, rows)


def _quality(qualities: Sequence[Quality]) -> Grid:
    rows = tuple(
        (
            str(q.precision),
            f"{q.report.perplexity:.3f}",
            f"{q.report.perplexity_increase:+.2%}",
            f"{q.nearest.perplexity_increase:+.2%}" if q.nearest else "",
            f"{q.report.argmax_agreement:.1%}",
            f"{q.decode_tok_s:.0f}",
        )
        for q in qualities
    )
    tokens = f"{qualities[0].report.num_tokens:,} tokens" if qualities else ""
    headings = (
        *("weights", "perplexity", "against fp32", "rounded to nearest"),
        *("same likeliest token", "decode tok/s, alone"),
    )
    return Grid(f"Quality of each precision over {tokens}", headings, rows, num_keys=1)


def print_report(report: Report, console: Console) -> None:
    """As tables, with the environment before them."""
    environment = "\n".join(f"{name}: {text}" for name, text in asdict(report.environment).items())
    console.print(Group(environment, *(grid.rich() for grid in grids(report))))


def markdown(report: Report) -> str:
    """The report as a section of a page."""
    e = report.environment
    head = (
        f"{e.machine}, load before {e.load:.1f}; {e.date}, commit {e.commit}; {e.versions}."
        f" {e.method}"
    )
    return "\n\n".join([head, *(grid.markdown() for grid in grids(report))])


def write_section(file: Path, name: str, text: str) -> None:
    """Replace what stands between the file's two comments `bench NAME begins` and `… ends`.

    Raises SettingError where they are not there.
    """
    begin, end = (f"<!-- bench {name} {word} -->" for word in ("begins", "ends"))
    page = file.read_text(encoding="utf-8") if file.exists() else ""
    replaced, count = re.subn(
        f"({re.escape(begin)}\n).*?(\n{re.escape(end)})",
        lambda match: f"{match[1]}\n{text}\n{match[2]}",
        page,
        count=1,
        flags=re.DOTALL,
    )
    if count == 0:
        raise SettingError(
            f"{file} has no place for the results: put the lines {begin} and {end} where they"
            " belong."
        )
    file.write_text(replaced, encoding="utf-8")
