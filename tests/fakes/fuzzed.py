"""A server with a real engine under fuzzed requests, and what they leave behind."""

import functools
import os
import random
import resource
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from unittest import mock

import httpx
from fakes.fuzz import problem
from fakes.live_engine import EngineServer
from fakes.live_server import running
from fakes.llama import Llama

from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.server.connection import Connection

_HEAD_S = 0.3
_PATIENCE_S = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Fuzzed:
    """What came of it."""

    problems: list[str]
    num_left: int
    """Answers, sequences, blocks and connections that are still there."""
    grown_files: int
    grown_mib: float
    """Resident memory, in the second half."""


def fuzz(
    tiny: Llama, kernels: CpuKernels, *, num_requests: int, num_threads: int, seed: int
) -> Fuzzed:
    """Slow heads are given up after 0.3 seconds here."""
    hasty = functools.partial(Connection, head_s=_HEAD_S)
    with (
        mock.patch("nimlite.server.serve.Connection", hasty),
        running(EngineServer(tiny.engine(kernels), tiny.tokenizer_directory)) as server,
        ThreadPoolExecutor(num_threads) as pool,
    ):
        send = functools.partial(_send, server.port)
        rng = random.Random(seed)
        seeds = [rng.randrange(2**63) for _ in range(num_requests)]
        warm = num_requests // 2
        problems = [*filter(None, pool.map(send, seeds[:warm]))]
        _settle(server)
        before = _files(), _mib()
        problems += filter(None, pool.map(send, seeds[warm:]))
        assert httpx.get(f"{server.url}/v1/health/live").status_code == 200
        num_left = _settle(server)
        after = _files(), _mib()
    return Fuzzed(
        problems=problems,
        num_left=num_left,
        grown_files=after[0] - before[0],
        grown_mib=after[1] - before[1],
    )


def _send(port: int, seed: int) -> str | None:
    found = problem(port, random.Random(seed))
    return f"seed {seed}: {found}" if found else None


def _settle(server: EngineServer) -> int:
    """Waits for what is under way to end; what is left then."""
    ticks = threading.Event()
    for _ in range(100 * _PATIENCE_S):
        stats = server.client.stats()
        left = (
            len(server.state.running)
            + stats.num_running
            + stats.num_waiting
            + (stats.num_blocks - stats.num_free_blocks)
            + len(server.server_state.connections)
        )
        if not left:
            break
        ticks.wait(0.01)
    return left


def _files() -> int:
    return len(os.listdir("/proc/self/fd"))


def _mib() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20
