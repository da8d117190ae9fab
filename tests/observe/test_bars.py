"""Progress as people see it."""

import io

import pytest
from rich.console import Console

from nimlite.observe.bars import BarProgress, LineProgress, TeeProgress, console_progress


def test_lines_at_the_start_at_every_tenth_and_at_the_end() -> None:
    lines: list[str] = []
    with LineProgress(lines.append).task("download", 200e6) as task:
        for _ in range(50):
            task.advance(4e6)
    tenths = [f"download: {percent} %" for percent in range(10, 100, 10)]
    assert lines[:-1] == ["download, 200.0 MB …", *tenths]
    assert lines[-1].startswith("download: done in 0.")


def test_lines_of_a_task_that_fails_do_not_say_done() -> None:
    lines: list[str] = []
    with pytest.raises(KeyError), LineProgress(lines.append).task("load", None) as task:
        task.advance(5)
        raise KeyError
    assert lines == ["load …"]


@pytest.mark.parametrize(("total", "unit"), [(2e6, "B"), (None, "B"), (3, "layers"), (None, "x")])
def test_bars_end_full(total: float | None, unit: str) -> None:
    screen = io.StringIO()
    progress = BarProgress(Console(file=screen, force_terminal=True, width=120))
    with progress.task("convert", total, unit) as task:
        task.advance(1)
    assert "convert" in screen.getvalue()


def test_bars_where_somebody_watches_and_lines_elsewhere() -> None:
    assert isinstance(console_progress(Console(force_terminal=True)), BarProgress)
    screen = io.StringIO()
    with console_progress(Console(file=screen)).task("load", None):
        pass
    assert screen.getvalue().startswith("load …\nload: done in ")


def test_a_tee_reports_to_all() -> None:
    first: list[str] = []
    second: list[str] = []
    tee = TeeProgress(LineProgress(first.append), LineProgress(second.append))
    with tee.task("build", 1, "x") as task:
        task.advance(0.5)
    assert first[:2] == second[:2] == ["build, 1 x …", "build: 50 %"]
