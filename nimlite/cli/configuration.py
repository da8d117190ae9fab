"""`nimlite config`: each setting with its value, where it came from, and its manual."""

from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from nimlite.cli.options import JsonOption, with_settings
from nimlite.cli.session import Session
from nimlite.settings import Origin, Settings
from nimlite.settings.fields import FIELDS, Group, members
from nimlite.settings.layers import plain
from nimlite.settings.manual import manual


@with_settings(Group.MODEL, Group.CHOICE, Group.BUILD, Group.LIMITS, Group.SERVER)
def config(session: Session, as_json: JsonOption = False) -> None:
    """Show each setting with its origin; what --json prints is a config file, too."""
    settings = session.settings
    session.write(
        settings_json(settings), settings_table(settings, with_manual=True), as_json=as_json
    )


def settings_json(settings: Settings, in_force: Settings | None = None) -> dict[str, Any]:
    """By name: value, origin, place and manual. `in_force`: the values, where they are decided."""
    return {
        name: {
            "value": plain(in_force or settings, name),
            "origin": _origin(name, settings, in_force),
            "place": settings.given[name].place if name in settings.given else None,
            "manual": manual()[name],
        }
        for name in FIELDS
        if name != "config_file"
    }


def settings_table(
    settings: Settings, in_force: Settings | None = None, *, with_manual: bool = False
) -> RenderableType:
    """The same for people, by group."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for name in ("setting", "value", "origin"):
        table.add_column(name, overflow="fold")
    for group in Group:
        table.add_row(f"[bold]{group}[/]")
        for name in members(group):
            given = settings.given.get(name)
            layer = _origin(name, settings, in_force)
            origin = f"{layer}: {given.place}" if given else layer
            table.add_row(name, escape(_text(plain(in_force or settings, name))), escape(origin))
            if with_manual:
                table.add_row("", f"[dim]{escape(manual()[name])}[/]")
    return table


def _origin(name: str, settings: Settings, in_force: Settings | None) -> Origin:
    decided = in_force and getattr(in_force, name) != getattr(settings, name)
    return Origin.PROFILE if decided else settings.origin(name)


def _text(value: Any) -> str:
    match value:
        case None | "" | [] | {}:
            return "-"
        case list():
            return ", ".join(value)
        case dict():
            return ",".join(f"{key}={tag}" for key, tag in value.items())
    return str(value)
