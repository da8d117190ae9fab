"""docs/building.md does what it says: its examples run, in their order, on a tiny model."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from fakes.llama import random_llama

PAGE = Path(__file__).parents[1] / "docs" / "building.md"
ALL_IN_ONE_PROCESS = """
import json, sys
from nimlite.cli import app
commands, code = json.loads(sys.argv[1])
for words in commands:
    print("$", *words, flush=True)
    app(words, standalone_mode=False)
exec(code)
"""


def examples(language: str) -> Iterator[str]:
    yield from re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.S)


def test_every_example_runs(tmp_path: Path) -> None:
    model = random_llama(tmp_path).home
    (tmp_path / "questions.txt").write_text("What is the capital of France? " * 50)
    lines = [line for block in examples("sh") for line in block.splitlines()]
    assert len(lines) == 8
    words = [shlex.split(line.replace("smollm2-135m", str(model))) for line in lines]
    assert {first for first, *_ in words} == {"nimlite"}
    (code,) = examples("python")
    done = subprocess.run(
        [sys.executable, "-c", ALL_IN_ONE_PROCESS, json.dumps([[w[1:] for w in words], code])],
        cwd=tmp_path,
        env={
            "PATH": str(tmp_path),  # no compiler: plain torch, at once
            "PYTHONPATH": str(PAGE.parents[1]),
            "NIM_CACHE_PATH": str(tmp_path / "cache"),
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("$") == len(words)
