import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from nimlite.store.scratch import scratch_directory

SCRIPT = """
import os, sys
from nimlite.store.scratch import scratch_directory
print(scratch_directory(), flush=True)
sys.stdin.read() or os.kill(os.getpid(), 9)
"""


@pytest.fixture(autouse=True)
def scratches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def user() -> "tuple[subprocess.Popen[str], Path]":
    command = [sys.executable, "-c", SCRIPT]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_it_ends_with_its_process(tmp_path: Path) -> None:
    process, scratch = user()
    assert scratch.parent == tmp_path and scratch.is_dir()
    process.communicate("end")
    assert list(tmp_path.iterdir()) == []


def test_one_of_a_killed_process_is_removed_by_the_next(tmp_path: Path) -> None:
    living, used = user()
    killed, left = user()
    killed.communicate()
    assert killed.returncode == -9
    (left / "engines").mkdir()
    mine = scratch_directory()
    assert {path.name for path in tmp_path.iterdir()} == {used.name, mine.name}
    assert os.stat(mine).st_mode & 0o777 == 0o700
    living.communicate("end")
