"""Starts of the embedded model that are killed at random moments of compilation, download and
build, half of them with two builders at once: `python tests/kill_starts.py [MOMENTS [SEED]]`.

Prints a line for each: what the killed one was doing, how long the next start took until it was
ready, and the files that nobody accounts for. Ends with 1 where something was not right. A moment
that comes when the engine is sealed already is checked, but another takes its place. Takes two
minutes a moment on two cores. (The test suite kills at every step instead, with a tiny model.)

The kernels, which take longest, are compiled in every fifth start; the others find them.
"""

import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NIMLITE = Path(sys.executable).with_name("nimlite")
PLANS = itertools.cycle(["alone", "one of two", "alone", "both"])
"""Who is killed."""


class Builder:
    """`nimlite build` of the embedded model, under way in the cache of `root`."""

    def __init__(self, root: Path, name: str) -> None:
        self._log = root / f"{name}.log"
        with self._log.open("w") as file:
            self._process = nimlite(root, "build", "smollm2-135m", "--json", errors=file)
        self._began = time.monotonic()

    def kill(self) -> str:
        """Gives what it was doing."""
        self._process.kill()
        self._process.communicate()
        lines = [line for line in self._log.read_text().splitlines() if " INFO " not in line]
        return lines[-1] if lines else "Python starts"

    def finish(self) -> tuple[str, float]:
        """The engine's sealed weights, and the seconds until it was there."""
        output, _ = self._process.communicate()
        if self._process.returncode:
            return f"exit code {self._process.returncode}: {self._log.read_text()}", 0
        engine = json.loads((Path(json.loads(output)["path"]) / "engine.json").read_text())
        return json.dumps(engine["weights"]), time.monotonic() - self._began


def nimlite(root: Path, *arguments: str, errors: object = None) -> "subprocess.Popen[str]":
    scratch = root / "tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"NIM_CACHE_PATH": str(root / "cache"), "TMPDIR": str(scratch)}
    command = [str(NIMLITE), *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
    )


def is_sealed(root: Path) -> bool:
    """Whether a builder had nothing left to do but to say so."""
    found = (root / "cache").rglob("engine.json")
    return any(not path.parent.name.endswith(".building") for path in found)


def unaccounted(root: Path) -> list[str]:
    """What lies in the cache or among the temporary files and `nimlite cache ls` does not show."""
    listing, _ = nimlite(root, "cache", "ls", "--json").communicate()
    entries = [Path(entry["path"]) for entry in json.loads(listing)]
    known = {root / "cache" / "digests", root / "cache" / "kernels" / "kernels.lock", *entries}
    known |= {path.with_name(f"{path.name}.lock") for path in entries}
    files = [p for folder in ("cache", "tmp") for p in (root / folder).rglob("*") if p.is_file()]
    return [str(path) for path in files if not known & {path, *path.parents}]


def main(num_moments: int = 20, seed: int = 1) -> int:
    chance = random.Random(seed)
    folder = Path(tempfile.mkdtemp(prefix="kill-starts-"))
    kernels = folder / "cold" / "cache" / "kernels"
    durations = []
    for name in ("cold", "with-kernels"):
        expected, seconds = Builder(_made(folder / name, kernels), "start").finish()
        durations.append(seconds)
    say(f"{folder}: undisturbed, starts take {durations[0]:.0f} and {durations[1]:.0f} s")
    wrong = num_in_progress = 0
    for number, plan in enumerate(PLANS):
        if num_in_progress == num_moments:
            break
        is_cold = number % 5 == 4
        root = _made(folder / str(number), None if is_cold else kernels)
        names = ("one",) if plan == "alone" else ("one", "other")
        builders = [Builder(root, name) for name in names]
        time.sleep(moment := chance.uniform(0, durations[0 if is_cold else 1]))
        chance.shuffle(builders)
        num_killed = 2 if plan == "both" else 1
        is_in_progress = not is_sealed(root)
        num_in_progress += is_in_progress
        doing = "; ".join(builder.kill() for builder in builders[:num_killed])
        results = [builder.finish()[0] for builder in builders[num_killed:]]
        result, took = Builder(root, "next").finish()
        is_right = all(each == expected for each in (*results, result))
        verified = nimlite(root, "cache", "verify").wait() == 0
        left = unaccounted(root)
        wrong += not (is_right and verified and not left)
        verdict = "right" if is_right and verified else f"WRONG {results} {result}"
        when = num_in_progress if is_in_progress else "sealed"
        say(f"{when} {plan} {moment:.1f} s ({doing}): next start {took:.0f} s, {verdict}, {left}")
    return wrong


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _made(root: Path, kernels: Path | None) -> Path:
    """A folder for a start, which finds `kernels` if they are there."""
    root.mkdir()
    if kernels and kernels.exists():
        shutil.copytree(kernels, root / "cache" / "kernels")
    return root


if __name__ == "__main__":
    sys.exit(1 if main(*map(int, sys.argv[1:])) else 0)
