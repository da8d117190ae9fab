import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nimlite.observe.progress import SILENT
from nimlite.store import turn as module
from nimlite.store.turn import turn


class Seen:
    """What a progress is told; `wanted` is set when `goal` was."""

    def __init__(self, goal: str) -> None:
        self.lines: list[str] = []
        self.wanted = threading.Event()
        self._goal = goal

    def advance(self, amount: float) -> None:
        self._add(f"+{amount:g}")

    @contextmanager
    def task(self, title: str, total: float | None, unit: str = "B") -> Iterator["Seen"]:
        self._add(f"{title} {total} {unit}")
        yield self
        self._add("end")

    def _add(self, line: str) -> None:
        self.lines.append(line)
        if line == self._goal:
            self.wanted.set()


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "engine.lock"


def waiting(lock: Path, seen: Seen) -> threading.Thread:
    def work() -> None:
        with turn(lock, seen) as progress, progress.task("Mine", None, ""):
            pass

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_who_waits_sees_the_work(
    lock: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_INTERVAL_S", 0)
    seen = Seen("+0")
    with caplog.at_level("INFO"), turn(lock, SILENT) as progress:
        thread = waiting(lock, seen)
        for goal in ("+30", "+12"):
            with progress.task("Convert", 100, "B") as task:
                seen._goal = goal
                task.advance(float(goal))
                assert seen.wanted.wait(60)
                seen.wanted.clear()
    thread.join()
    assert "Another process is at this work and holds" in caplog.text
    theirs = ["Convert (in another process) 100 B"]
    assert seen.lines == [*theirs, "+30", "end", *theirs, "+12", "end", "Mine None ", "end"]
    assert lock.read_text() == ""


def test_the_newest_task_that_still_runs_is_shown(lock: Path) -> None:
    with turn(lock, SILENT) as progress:
        with progress.task("Compile", None, ""):
            with progress.task("Prove", None, ""):
                assert '"title": "Prove"' in lock.read_text()
            assert '"title": "Compile"' in lock.read_text()
        assert lock.read_text() == ""


def test_one_that_died_leaves_nothing_to_be_shown(lock: Path) -> None:
    if (pid := os.fork()) == 0:
        with turn(lock, SILENT) as progress, progress.task("Convert", 100, "B"):
            os._exit(9)
    os.waitpid(pid, 0)
    assert "Convert" in lock.read_text()
    seen = Seen("")
    waiting(lock, seen).join()
    assert seen.lines == ["Mine None ", "end"]
