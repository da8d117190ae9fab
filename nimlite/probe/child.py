"""Questions that can hang or crash are put to a child process, which takes the harm with it."""

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

TIMEOUT_S = 10.0


def script(name: str) -> tuple[str, ...]:
    """The command of a script beside this file. -P: its neighbours must not shadow packages."""
    return (sys.executable, "-P", str(Path(__file__).with_name(name)))


def ask_child(
    command: Sequence[str], who: str, timeout_s: float = TIMEOUT_S
) -> tuple[dict[str, Any], str | None]:
    """(the JSON object that the command prints, None), or ({}, why there is none).

    An answer's own `problem` is handed back as the second. `who` begins that sentence, such as
    "The GPU driver". Never raises, and never waits much longer than `timeout_s`.
    """
    try:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    except OSError as error:
        return {}, f"{who} could not be asked, for the child process did not start: {error}."
    try:
        output, complaint = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        _abandon(child)
        return {}, f"{who} did not answer within {timeout_s:g} s; see `nvidia-smi`."
    try:
        answer = json.loads(output)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        last = complaint.strip().splitlines()[-1:] or ["no output"]
        return (
            {},
            f"{who} gave no answer: its child ended with status {child.returncode}: {last[0]}.",
        )
    return answer, answer.pop("problem", None)


def _abandon(child: subprocess.Popen[str]) -> None:
    """Kill the child, but don't wait for it: inside a stuck driver call not even a kill ends it."""
    child.kill()
    with suppress(subprocess.TimeoutExpired):
        child.wait(timeout=1.0)
    for pipe in (child.stdout, child.stderr):
        if pipe is not None:
            pipe.close()
