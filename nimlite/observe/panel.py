"""The panel that ends the start: what is served, why so, in how much memory, and how to try it."""

from rich import box
from rich.console import Group
from rich.panel import Panel
from rich.table import Table

from nimlite.profiles.manifest import Manifest
from nimlite.profiles.selection import Candidate, gibibytes


def ready_panel(
    *,
    manifest: Manifest,
    candidate: Candidate,
    name: str,
    url: str,
    num_threads: int,
    seconds: float,
    generates: bool = True,
) -> Panel:
    """`name`: as clients ask for it; `seconds`: from the command to ready; `generates`: it is not
    for embeddings alone."""
    profile, memory = candidate.serving, candidate.memory
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold")
    rows.add_column(overflow="fold")
    rows.add_row("Model", f"{name} ({manifest.num_parameters / 1e6:.0f} M, {manifest.license})")
    rows.add_row("Profile", f"{profile.name}, {num_threads} compute thread(s)")
    rows.add_row("", candidate.reason)
    rows.add_row(
        "Memory",
        f"weights {gibibytes(memory.weights)}, KV cache {gibibytes(memory.kv_cache)}, "
        f"buffers {gibibytes(memory.activations)}, runtime {gibibytes(memory.runtime)}",
    )
    rows.add_row(
        "Limits",
        f"context {profile.max_model_len} tokens, {profile.max_batch_size} sequences at once",
    )
    rows.add_row("URL", f"{url}/v1")
    return Panel(
        Group(rows, "", _curl(url, name, generates)),
        # No sides, so that the command can be copied off the screen.
        box=box.HORIZONTALS,
        title=f"nimlite is ready after {seconds:.1f} s",
        border_style="green",
        expand=False,
    )


def _curl(url: str, name: str, generates: bool) -> str:
    """Broken only inside the quotes, where the panel's padding does no harm to who copies it."""
    if not generates:
        return (
            f"""curl {url}/v1/embeddings --json '{{\n  "model": "{name}", "input": "A text."}}'"""
        )
    return (
        f"curl {url}/v1/chat/completions --json '{{\n"
        f'  "model": "{name}",\n'
        """  "messages": [{"role": "user", "content": "What is 2+2?"}]}'"""
    )
