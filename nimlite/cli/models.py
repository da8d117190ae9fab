"""`nimlite models`."""

from typing import Any

from rich.markup import escape
from rich.table import Table

from nimlite.cli.options import JsonOption, with_settings
from nimlite.cli.session import Session
from nimlite.models.registry import families
from nimlite.profiles.support import THIS_VERSION


@with_settings()
def models(session: Session, as_json: JsonOption = False) -> None:
    """List the families of models that can be served, and how."""
    precisions = {device.value: list(known) for device, known in THIS_VERSION.precisions.items()}
    limits = {"max_tp": THIS_VERSION.max_tp, "max_pp": THIS_VERSION.max_pp}
    rows: list[dict[str, Any]] = []
    table = Table(box=None, pad_edge=False)
    for title in ("family", "architectures", "what it is"):
        table.add_column(title, overflow="fold")
    for name, family in families().items():
        about = " ".join((family.__doc__ or "").split())
        rows.append({"family": name, "architectures": list(family.ARCHITECTURES), "about": about})
        table.add_row(name, "\n".join(family.ARCHITECTURES), escape(about))
    table.caption = (
        f"Each on a CPU in {', '.join(precisions['cpu'])}; on a GPU in"
        f" {', '.join(precisions['gpu'])}; with tp up to {limits['max_tp']} and pp up to"
        f" {limits['max_pp']}; as far as its config.json says, positions stretched (linear,"
        " dynamic, yarn, llama3, longrope) or not."
    )
    table.caption_justify = "left"
    data = [row | limits | {"precisions": precisions} for row in rows]
    session.write(data, table, as_json=as_json)
