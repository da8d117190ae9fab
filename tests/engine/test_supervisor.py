"""An engine that is killed, crashes or hangs comes back; one that can't, is given up."""

import asyncio
import functools
import os
import signal
import threading
from collections.abc import Callable, Coroutine, Sequence

import pytest
from fakes.driving import Outcome, request
from fakes.paced_engine import PacedEngine, paced

from nimlite.engine.client import EngineClient, EngineHost
from nimlite.engine.loop import EngineLoop
from nimlite.engine.process import EngineProcess
from nimlite.engine.request import Delta, EngineStats, FinishReason
from nimlite.engine.supervisor import Supervisor
from nimlite.errors import EngineDeadError, ModelError, NotReadyError
from nimlite.observe.bars import LineProgress

quiet = LineProgress(lambda line: None)
at_once = functools.partial(paced, 0.001, (5, 6), 0.0)
Body = Callable[[EngineClient, Supervisor], Coroutine[None, None, None]]


class Breakable(PacedEngine):
    failure: Exception | None = None

    def step(self) -> list[Delta]:
        if self.failure is not None:
            raise self.failure
        return super().step()


def supervised(
    first: EngineHost, restart: Callable[[], EngineHost], body: Body, delays_s: Sequence[float]
) -> None:
    async def run() -> None:
        supervisor = Supervisor(first, restart, delays_s=delays_s)
        client = EngineClient(supervisor)
        try:
            await body(client, supervisor)
        finally:
            client.close()
        with pytest.raises(EngineDeadError, match="must be restarted"):
            await anext(client.generate([request("late", [1])]))

    asyncio.run(run())


async def ask(client: EngineClient, name: str, max_tokens: int = 3) -> Outcome:
    generated = client.generate([request(name, [1], max_tokens=max_tokens)])
    return Outcome.of([delta async for deltas in generated for delta in deltas])


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


def launch(hang_s: float = 300.0) -> EngineProcess:
    return EngineProcess.launch(at_once, quiet, hang_s=hang_s)


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_is_killed_or_hangs_is_replaced(sent: signal.Signals) -> None:
    first = launch(hang_s=0.5)

    async def body(client: EngineClient, supervisor: Supervisor) -> None:
        assert len((await ask(client, "before")).token_ids) == 3
        in_flight = asyncio.create_task(ask(client, "in flight", 1 << 19))
        await until(lambda: client.stats().num_running > 0)
        os.kill(first.pid, sent)
        lost = await in_flight
        assert lost.finish_reason is FinishReason.ERROR
        why = {signal.SIGKILL: "was ended by SIGKILL", signal.SIGSTOP: "did nothing for 0.5 s, and"}
        assert why[sent] in lost.error and lost.error.endswith("is lost with it: ask again.")
        assert isinstance(client.outage, NotReadyError)
        assert "It is being started again: ask again" in str(client.outage)
        assert client.outage.retry_after_s == 5
        num_steps = client.stats().num_steps
        await until(lambda: client.outage is None)
        assert len((await ask(client, "after")).token_ids) == 3
        stats = client.stats()
        assert (stats.num_restarts, stats.num_running) == (1, 0)
        assert stats.num_steps > num_steps

    supervised(first, launch, body, [0.0])


def test_an_engine_in_a_thread_comes_back_after_an_error(caplog: pytest.LogCaptureFixture) -> None:
    broken = Breakable(0.0)
    tries: list[str] = []

    def restart() -> EngineHost:
        tries.append("try")
        if len(tries) == 1:
            raise ModelError("its files are away.")
        if len(tries) == 2:
            raise ZeroDivisionError("a bug")
        return EngineLoop(PacedEngine(0.0))

    async def body(client: EngineClient, supervisor: Supervisor) -> None:
        broken.stats = EngineStats(num_drafted_tokens=7, num_accepted_tokens=5)
        broken.failure = RuntimeError("no such kernel")
        assert (await ask(client, "a")).error == "The engine stopped: no such kernel"
        await until(lambda: client.outage is None)
        assert len((await ask(client, "b")).token_ids) == 3
        stats = client.stats()
        assert stats.num_restarts == 1
        assert (stats.num_drafted_tokens, stats.num_accepted_tokens) == (7, 5)

    supervised(EngineLoop(broken), restart, body, [0.0] * 3)
    assert len(tries) == 3
    assert "could not be started again: its files are away." in caplog.text
    assert "a bug" in caplog.text


def test_one_that_never_comes_back_is_given_up_with_the_last_reason() -> None:
    broken = Breakable(0.0)
    broken.failure = RuntimeError("no such kernel")

    def restart() -> EngineHost:
        again = Breakable(0.0)
        again.failure = RuntimeError("out of memory")
        return EngineLoop(again)

    async def body(client: EngineClient, supervisor: Supervisor) -> None:
        for _ in range(3):
            assert (await ask(client, "a")).finish_reason is FinishReason.ERROR
            await until(lambda: not isinstance(client.outage, NotReadyError))
        assert isinstance(client.outage, EngineDeadError)
        assert str(client.outage) == (
            "The engine stopped: out of memory. The server must be restarted."
        )

    supervised(EngineLoop(broken), restart, body, [0.0, 0.0])


def test_who_stops_while_it_comes_back_leaves_no_process() -> None:
    first = launch()
    began = threading.Event()
    started: list[EngineProcess] = []

    def restart() -> EngineHost:
        began.set()
        started.append(launch())
        return started[-1]

    async def body(client: EngineClient, supervisor: Supervisor) -> None:
        os.kill(first.pid, signal.SIGKILL)
        await until(began.is_set)
        client.close()
        await until(lambda: bool(started) and not started[0].is_alive)

    supervised(first, restart, body, [0.0])
