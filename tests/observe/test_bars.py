"""Progress as people see it."""

import io

import pytest
from rich.console import Console

from nimlite.observe.bars import BarProgress, LineProgress, TeeProgress, console_progress


def test_lines_at_the_start_at_every_tenth_and_at_the_end() -> None:
    lines: list[str] = []
    now = 0.0
    with LineProgress(lines.append, lambda: now).task("download", 200e6) as task:
        for _ in range(50):
            now += 0.1
            task.advance(4e6)
    assert lines[:2] == ["download, 200.0 MB …", "download: 10 %, 40.0 MB/s, 0:00:04 left"]
    assert [line.split()[1] for line in lines[1:-1]] == [str(10 * tenth) for tenth in range(1, 10)]
    assert lines[-1] == "download: done in 5.0 s"


def test_a_slow_task_is_never_silent_for_long() -> None:
    lines: list[str] = []
    now = 0.0
    progress = LineProgress(lines.append, lambda: now)
    with progress.task("download", 400e9) as task:
        for _ in range(4):
            now += 20
            task.advance(1e9)
    with progress.task("wait", None) as task:
        now += 30
        task.advance(60e6)
    assert lines[1:] == [
        "download: 0 %, 50.0 MB/s, 2:12:40 left",
        "download: 1 %, 50.0 MB/s, 2:12:00 left",
        "download: done in 80.0 s",
        "wait …",
        "wait: 60.0 MB, 2.0 MB/s",
        "wait: done in 30.0 s",
    ]


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
    assert first[:2] == second[:2] == ["build, 1 x …", "build: 50 %, 0:00:00 left"]
