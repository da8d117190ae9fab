"""Load clients in processes of their own, for a server that is faster than one of them.

    python -m nimlite.bench.clients

Each line of its input is a job for `run_load`, each line of its output what that gave; the first
line says that it is ready.
"""

import contextlib
import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from nimlite.bench.client import LoadRun, Prompt, Target, run_load
from nimlite.bench.timing import RequestTiming
from nimlite.bench.workload import Workload
from nimlite.errors import BenchmarkError


class Clients:
    """The processes, ready. They share a workload's requests and its concurrency."""

    def __init__(self, processes: Sequence[subprocess.Popen[str]]) -> None:
        self._processes = processes
        for process in processes:
            _read(process)

    def run(self, target: Target, workload: Workload, prompts: Sequence[Prompt]) -> LoadRun:
        """Raises BenchmarkError for an answer that is none."""
        count = min(len(self._processes), workload.concurrency)
        processes = self._processes[:count]
        for i, process in enumerate(processes):
            share = len(range(i, workload.concurrency, count))
            job = {
                "target": dataclasses.asdict(target),
                "workload": dataclasses.asdict(dataclasses.replace(workload, concurrency=share)),
                "prompts": prompts[i::count],
            }
            assert process.stdin is not None
            print(json.dumps(job), file=process.stdin, flush=True)
        runs = [_read(process) for process in processes]
        timings = [RequestTiming(**fields) for run in runs for fields in run["timings"]]
        return LoadRun(tuple(timings), sum(run["client_cpu_s"] for run in runs))


@contextlib.contextmanager
def running_clients(count: int) -> Iterator[Clients]:
    """Start them, and end them with the block."""
    arguments = [sys.executable, "-m", __name__]
    with contextlib.ExitStack() as stack:
        processes = []
        for _ in range(count):
            process = subprocess.Popen(
                arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            processes.append(stack.enter_context(process))
            stack.callback(process.terminate)
        yield Clients(processes)


def _read(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    line = process.stdout.readline()
    answer = json.loads(line) if line else {"error": "A client of the benchmark ended."}
    if "error" in answer:
        raise BenchmarkError(answer["error"])
    return answer


def _serve() -> None:
    """The process's own side."""
    _answer({})
    for line in sys.stdin:
        job = json.loads(line)
        try:
            run = run_load(Target(**job["target"]), Workload(**job["workload"]), job["prompts"])
        except (BenchmarkError, OSError) as error:
            _answer({"error": str(error)})
        else:
            _answer(dataclasses.asdict(run))


def _answer(answer: object) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _serve()
