"""The ready panel, as the console shows it."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from nimlite.observe.panel import ready_panel
from nimlite.probe import probe
from nimlite.profiles.load import load_manifest, profiles_directory
from nimlite.profiles.selection import select
from nimlite.settings import read_settings


@pytest.mark.parametrize(("generates", "path"), [(True, "chat/completions"), (False, "embeddings")])
def test_the_panel_tells_all_and_its_command_can_be_copied(generates: bool, path: str) -> None:
    manifest = load_manifest(profiles_directory() / "smollm2-135m.yaml")
    selection = select(manifest, probe(Path()), read_settings({}))
    screen = io.StringIO()
    panel = ready_panel(
        manifest=manifest,
        candidate=selection.chosen,
        name="org/model",
        url="http://localhost:8000",
        num_threads=1,
        seconds=1.25,
        generates=generates,
    )
    Console(file=screen, width=80).print(panel)
    shown = screen.getvalue()
    assert "nimlite is ready after 1.2 s" in shown
    for part in (manifest.license, selection.chosen.profile.name, "weights 0.09 GiB", "8192"):
        assert part in shown
    command = shown[shown.index("curl") :]
    assert f"http://localhost:8000/v1/{path} --json '{{" in command
    assert command.count("'") == 2
    assert "│" not in command
