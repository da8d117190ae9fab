"""The program as users start it: a process, its output and its exit code."""

import subprocess
import sys
from pathlib import Path


def nimlite(*arguments: str, cache: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nimlite", *arguments],
        env={"NIM_CACHE_PATH": str(cache), "PATH": "/usr/bin:/bin", **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
