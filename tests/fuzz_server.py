"""Fuzzed requests, as raw bytes, against a server with a real tiny engine:
`python tests/fuzz_server.py [REQUESTS [SEED]]`; `scripts/fuzz` also generates requests from the
OpenAPI schema.

Ends with 1 where one was not answered or closed, was answered by a 5xx, or left anything behind.
"""

import sys
import tempfile
from pathlib import Path

from fakes.fuzzed import fuzz
from fakes.llama import random_llama

from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.kernels.cpu.library import load
from nimlite.settings import default_cache_path


def main(num_requests: int, seed: int) -> int:
    kernels = CpuKernels(load(default_cache_path() / "kernels"), num_threads=1)
    with tempfile.TemporaryDirectory() as home:
        tiny = random_llama(Path(home))
        found = fuzz(tiny, kernels, num_requests=num_requests, num_threads=16, seed=seed)
    sys.stdout.write(
        f"{num_requests} requests: {len(found.problems)} problems, {found.num_left} things left, "
        f"{found.grown_files:+d} open files, {found.grown_mib:+.1f} MiB\n"
    )
    for problem in found.problems[:20]:
        sys.stdout.write(f"{problem}\n")
    return 1 if found.problems or found.num_left or found.grown_files > 8 else 0


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    sys.exit(main(*given, *(10_000, 0)[len(given) :]))
