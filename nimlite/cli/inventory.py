"""`nimlite cache`: what was downloaded and built, shown, removed and verified."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from nimlite.cli.options import JsonOption, with_settings
from nimlite.cli.session import Session
from nimlite.errors import ChecksumError, SettingError
from nimlite.store.inventory import Entry, damage, entries, find, remove

app = typer.Typer(
    help="What the cache holds: downloads, engines and compiled kernels.", no_args_is_help=True
)


@app.command("ls")
@with_settings()
def list_entries(session: Session, as_json: JsonOption = False) -> None:
    """List what the cache holds: size, last use, and whether a process uses it."""
    found = entries(session.store.root)
    session.write([_as_json(entry) for entry in found], _table(found), as_json=as_json)


@app.command("rm")
@with_settings()
def remove_entries(
    session: Session,
    names: Annotated[
        list[str] | None,
        typer.Argument(help="A name that `cache ls` shows, a key, or its beginning."),
    ] = None,
    all_entries: Annotated[
        bool, typer.Option("--all", help="All that no process is using.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove downloads, engines or kernels; what a process uses is refused."""
    if bool(names) == all_entries:
        raise SettingError("Give either names, as `nimlite cache ls` shows them, or --all.")
    found = entries(session.store.root)
    if all_entries:
        wanted = [entry for entry in found if not entry.in_use]
    else:
        wanted = [find(found, name) for name in names or ()]
    for entry in wanted:
        remove(session.store.root, entry)
    kept = [entry for entry in found if all_entries and entry.in_use]
    data = {"removed": [e.name for e in wanted], "kept": [entry.name for entry in kept]}
    lines = [f"Removed {e.name} ({_size(e.size)})." for e in wanted]
    lines += [f"Kept {entry.name}: it is in use." for entry in kept]
    session.write(data, escape("\n".join(lines) or "There was nothing to remove."), as_json=as_json)


@app.command("verify")
@with_settings()
def verify_entries(session: Session, as_json: JsonOption = False) -> None:
    """Read every file of downloads and engines, and compare it with its digest."""
    found = [entry for entry in entries(session.store.root) if entry.can_be_verified]
    problems = {
        str(entry.path / name): reason for entry in found for name, reason in damage(entry).items()
    }
    data = {"verified": [entry.name for entry in found], "damaged": problems}
    lines = [f"{path} is damaged: {reason}." for path, reason in problems.items()]
    size = _size(sum(entry.size for entry in found))
    lines = lines or [f"Downloads and engines verified: {len(found)} ({size}), all whole."]
    session.write(data, escape("\n".join(lines)), as_json=as_json)
    if problems:
        raise ChecksumError(
            f"{len(problems)} damaged in the cache {session.store.root}: {', '.join(problems)}. "
            "The next start fetches and builds them again; if this repeats, check the disk."
        )


def _as_json(entry: Entry) -> dict[str, Any]:
    return {**asdict(entry), "last_use": _time(entry).isoformat(timespec="seconds")}


def _table(found: list[Entry]) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("kind", "name", "size", "last use (UTC)", "state"):
        table.add_column(heading, overflow="fold", justify="right" if heading == "size" else "left")
    for entry in found:
        state = "in use" if entry.in_use else "" if entry.finished else "broken off"
        when = f"{_time(entry):%Y-%m-%d %H:%M}"
        table.add_row(entry.kind, escape(entry.name), _size(entry.size), when, state)
    table.add_row("", "all", _size(sum(entry.size for entry in found)))
    return table


def _time(entry: Entry) -> datetime:
    return datetime.fromtimestamp(entry.last_use, UTC)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"
