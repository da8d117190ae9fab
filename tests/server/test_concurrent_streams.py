"""Two hundred clients at once over real HTTP, a third of whom leave in the middle."""

import asyncio
import functools
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes import child_engines
from fakes.live_engine import EngineServer, HostServer
from fakes.live_server import running
from fakes.llama import Llama

from nimlite.engine.client import EngineHost
from nimlite.engine.loop import EngineLoop
from nimlite.engine.process import EngineProcess
from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.kernels.cpu.library import Library
from nimlite.observe.bars import LineProgress

NUM_CLIENTS = 200
LEAVES_AFTER_CHUNKS = 2
LIMITS = {"num_blocks": 160, "max_num_tokens": 256, "max_batch_size": 48}
Tokens = dict[int, list[str]]
"""By sample."""


def leaves(i: int) -> bool:
    return i % 3 == 0


def body(i: int) -> dict[str, Any]:
    """All lengths; three of four begin like a neighbour; some want two samples."""
    return {
        "model": "tiny",
        "prompt": [(7 * (i - i % 4) + p) % 256 for p in range(1 + 13 * i % 97)],
        # Whoever leaves would have to listen for long.
        "max_tokens": 400 if leaves(i) else 5 + i % 23,
        "temperature": 1.0,
        "seed": i,
        "n": 1 + (i % 10 == 0),
        "logprobs": 0,
        "ignore_eos": True,
        "stream": True,
    }


async def listen(client: httpx.AsyncClient, i: int) -> Tokens:
    """What client `i` hears until the end, or until it leaves."""
    tokens: Tokens = {}
    num_chunks = 0
    async with client.stream("POST", "/v1/completions", json=body(i)) as response:
        assert response.status_code == 200
        async for line in response.aiter_lines():
            if line == "data: [DONE]":
                return tokens
            if line:
                for choice in json.loads(line.removeprefix("data: "))["choices"]:
                    found = (choice["logprobs"] or {}).get("tokens", [])
                    tokens.setdefault(choice["index"], []).extend(found)
                num_chunks += 1
            if leaves(i) and num_chunks == LEAVES_AFTER_CHUNKS:
                return {}
    raise AssertionError("the stream ended without [DONE]")


async def listen_together(server: HostServer) -> list[Tokens]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=120) as client:
        heard = await asyncio.gather(*(listen(client, i) for i in range(NUM_CLIENTS)))
        for _ in range(20_000):  # until server and engine have noticed who left
            stats = server.client.stats()
            if not stats.num_running and not stats.num_waiting:
                break
            await client.get("/v1/health/live")
    return heard


async def listen_one_by_one(server: HostServer) -> dict[int, Tokens]:
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
        return {i: await listen(client, i) for i in range(NUM_CLIENTS) if not leaves(i)}


@pytest.fixture(scope="module")
def alone(tiny: Llama, module_kernels: CpuKernels) -> dict[int, Tokens]:
    quiet = tiny.engine(module_kernels, prefix_caching=False)
    with running(EngineServer(quiet, tiny.tokenizer_directory)) as server:
        return asyncio.run(listen_one_by_one(server))


@pytest.fixture(scope="module")
def module_kernels(library: Library) -> CpuKernels:
    return CpuKernels(library, num_threads=1)


@pytest.fixture(params=["thread", "process"])
def host(
    request: pytest.FixtureRequest, tiny: Llama, module_kernels: CpuKernels, cache_dir: Path
) -> EngineHost:
    if request.param == "thread":
        return EngineLoop(tiny.engine(module_kernels, **LIMITS))
    recipe = functools.partial(child_engines.tiny, tiny.home, cache_dir, LIMITS)
    return EngineProcess.launch(recipe, LineProgress(lambda line: None))


def test_who_stays_hears_what_it_would_alone_and_no_block_is_lost(
    tiny: Llama, host: EngineHost, alone: dict[int, Tokens]
) -> None:
    with running(HostServer(host, tiny.tokenizer_directory, tiny.spec.vocab_size)) as server:
        heard = asyncio.run(listen_together(server))
        stats = server.client.stats()
        assert (stats.num_running, stats.num_waiting) == (0, 0)
        assert stats.num_free_blocks == stats.num_blocks == 160
        assert stats.num_prefix_hits > 0
    assert {i: heard[i] for i in alone} == alone
    assert all(len(t) == body(i)["max_tokens"] for i in alone for t in alone[i].values())
