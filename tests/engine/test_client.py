"""The engine behind asyncio, and behind the server."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine

import httpx
import pytest
from fakes.driving import Outcome, drive, request
from fakes.gated_engine import GatedEngine
from fakes.live_engine import EngineServer
from fakes.live_server import running
from fakes.llama import Llama

from nimlite.engine.client import EngineClient
from nimlite.engine.loop import EngineLoop
from nimlite.engine.request import Delta, FinishReason
from nimlite.errors import ContextLengthError, EngineDeadError
from nimlite.kernels.cpu.cpu_kernels import CpuKernels

Body = Callable[[EngineClient], Coroutine[None, None, None]]


@pytest.fixture
def engine(tiny: Llama, kernels: CpuKernels) -> GatedEngine:
    return tiny.engine(kernels, kind=GatedEngine)


def with_client(engine: GatedEngine, body: Body) -> None:
    async def run() -> None:
        client = EngineClient(EngineLoop(engine))
        try:
            await body(client)
        finally:
            engine.open_gate()
            client.close()

    asyncio.run(run())


async def collect(batches: AsyncIterator[list[Delta]]) -> dict[str, Outcome]:
    found: dict[str, list[Delta]] = {}
    async for deltas in batches:
        for delta in deltas:
            found.setdefault(delta.request_id, []).append(delta)
    return {request_id: Outcome.of(of_one) for request_id, of_one in found.items()}


def test_concurrent_calls_each_get_their_own(
    engine: GatedEngine, tiny: Llama, kernels: CpuKernels
) -> None:
    calls = [
        [request(f"{i}-{j}", [i, j, 5], seed=j, temperature=1.0, max_tokens=9) for j in range(3)]
        for i in range(8)
    ]

    async def body(client: EngineClient) -> None:
        engine.open_gate()
        answers = await asyncio.gather(*(collect(client.generate(call)) for call in calls))
        alone = tiny.engine(kernels)
        assert answers == [drive(alone, *call) for call in calls]
        assert client.stats().num_running == 0

    with_client(engine, body)


def test_who_leaves_frees_its_blocks_within_one_step(engine: GatedEngine) -> None:
    async def body(client: EngineClient) -> None:
        leaving = client.generate([request("leaving", [1] * 100, max_tokens=50)])
        staying = client.generate([request("staying", [2] * 20, max_tokens=50)])
        first = asyncio.gather(anext(leaving), anext(staying))
        engine.allow(2)  # one may come with a step of its own
        await first
        num_steps = 3
        before = await asyncio.to_thread(engine.wait_at_gate, num_steps)
        assert before.num_running == 2
        await leaving.aclose()
        engine.allow()
        after = await asyncio.to_thread(engine.wait_at_gate, num_steps + 1)
        assert after.num_running == 1
        assert after.num_blocks - after.num_free_blocks == 2  # of the one that stays
        await staying.aclose()

    with_client(engine, body)


def test_abort_ends_one_of_several(engine: GatedEngine) -> None:
    async def body(client: EngineClient) -> None:
        requests = [request(name, [1], max_tokens=3) for name in ("finished", "aborted", "kept")]
        deltas = client.generate([*requests[1:], request("finished", [1], max_tokens=1)])
        engine.allow()
        seen = await anext(deltas)
        await asyncio.to_thread(engine.wait_at_gate, 2)
        client.abort("aborted")
        # Its last delta is here, but unread: the abort comes too late.
        client.abort("finished")
        client.abort("unknown")
        engine.open_gate()
        seen += [delta async for batch in deltas for delta in batch]
        ends = {delta.request_id: delta.finish_reason for delta in seen if delta.finish_reason}
        assert ends == {
            "finished": FinishReason.LENGTH,
            "aborted": FinishReason.ABORT,
            "kept": FinishReason.LENGTH,
        }
        assert sum(delta.finish_reason is not None for delta in seen) == 3

    with_client(engine, body)


def test_one_of_a_call_that_never_fits_is_refused_before_any_runs(engine: GatedEngine) -> None:
    async def body(client: EngineClient) -> None:
        call = [request("a", [1]), request("b", [1] * 500, max_tokens=13)]
        with pytest.raises(ContextLengthError, match="needs 513 tokens"):
            await anext(client.generate(call))
        assert not engine.at_gate

    with_client(engine, body)


def test_close_under_load_ends_every_call(engine: GatedEngine) -> None:
    async def body(client: EngineClient) -> None:
        calls = [
            asyncio.create_task(collect(client.generate([request(str(i), [i], max_tokens=200)])))
            for i in range(20)
        ]
        await asyncio.to_thread(engine.wait_at_gate, 1)
        engine.open_gate()
        client.close()
        client.close()
        for answer in await asyncio.gather(*calls):
            [outcome] = answer.values()
            assert outcome.error == "The server is shutting down."
        assert client.outage is not None
        with pytest.raises(EngineDeadError, match="must be restarted"):
            await anext(client.generate([request("late", [1])]))

    with_client(engine, body)


def test_an_engine_that_fails_is_a_503_for_everybody(
    engine: GatedEngine, tiny: Llama, caplog: pytest.LogCaptureFixture
) -> None:
    ask = {"model": "tiny", "prompt": "What now?", "max_tokens": 5}

    async def ask_all(url: str) -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            asked = [asyncio.create_task(client.post("/v1/completions", json=ask)) for _ in "abc"]
            await asyncio.to_thread(engine.wait_at_gate, 1)
            engine.failure = RuntimeError("no such kernel")
            engine.open_gate()
            return await asyncio.gather(*asked)

    with running(EngineServer(engine, tiny.tokenizer_directory)) as server:
        for response in asyncio.run(ask_all(server.url)):
            error = response.json()["error"]
            assert (response.status_code, error["code"]) == (503, "engine_dead")
        late = httpx.post(f"{server.url}/v1/completions", json=ask)
        assert late.status_code == 503
        assert "must be restarted" in late.json()["error"]["message"]
        assert httpx.get(f"{server.url}/v1/health/live").status_code == 503
        assert httpx.get(f"{server.url}/v1/health/ready").status_code == 503
    assert "no such kernel" in caplog.text
