"""An engine in a child process: started, watched, killed, and never left behind."""

import asyncio
import functools
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine

import pytest
from fakes.child_engines import broken, ends, failing, hangs, refused, talkative
from fakes.driving import Outcome, request
from fakes.paced_engine import paced

from nimlite.engine.client import EngineClient
from nimlite.engine.process import EngineProcess
from nimlite.engine.request import Delta, FinishReason
from nimlite.errors import ContextLengthError, EngineDeadError, EngineError, ModelError
from nimlite.observe.bars import LineProgress
from nimlite.server.startup import Startup

SHUTDOWN = "The server is shutting down."
Body = Callable[[EngineClient, EngineProcess], Coroutine[None, None, None]]
quiet = LineProgress(lambda line: None)
at_once = functools.partial(paced, 0.0, (5, 6), 0.0)
never = functools.partial(paced, 3600.0, (5,), 0.0)
"""It gives one token and then takes its time."""


def with_client(recipe: Callable, body: Body) -> None:
    async def run() -> None:
        process = EngineProcess.launch(recipe, quiet)
        client = EngineClient(process)
        try:
            await body(client, process)
        finally:
            client.close()
        assert client.outage is not None
        assert has_gone(process.pid)

    asyncio.run(run())


def has_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def outcomes(client: EngineClient, *requests: object) -> dict[str, Outcome]:
    found: dict[str, list[Delta]] = {}
    async for deltas in client.generate(requests):
        for delta in deltas:
            found.setdefault(delta.request_id, []).append(delta)
    return {request_id: Outcome.of(of_one) for request_id, of_one in found.items()}


def test_requests_are_answered_and_counted() -> None:
    async def body(client: EngineClient, process: EngineProcess) -> None:
        calls = [[request(f"{i}-{j}", [1], max_tokens=9 + i) for j in (0, 1)] for i in range(20)]
        answers = await asyncio.gather(*(outcomes(client, *call) for call in calls))
        for i, answer in enumerate(answers):
            assert sorted(answer) == [f"{i}-0", f"{i}-1"]
            assert [len(outcome.token_ids) for outcome in answer.values()] == [9 + i] * 2
            assert {o.finish_reason for o in answer.values()} == {FinishReason.LENGTH}
        assert client.stats().num_steps > 9
        assert client.stats().num_running == 0
        with pytest.raises(ContextLengthError, match="holds 1048576"):
            await anext(client.generate([request("long", [1], max_tokens=1 << 21)]))

    with_client(at_once, body)


def test_who_leaves_is_aborted_in_the_child() -> None:
    async def body(client: EngineClient, process: EngineProcess) -> None:
        leaving = client.generate([request("leaving", [1], max_tokens=1 << 19)])
        await anext(leaving)
        await leaving.aclose()
        answer = await outcomes(client, request("staying", [1], max_tokens=3))
        assert len(answer["staying"].token_ids) == 3
        assert client.stats().num_running == 0

    with_client(at_once, body)


def test_close_under_load_ends_every_call() -> None:
    async def body(client: EngineClient, process: EngineProcess) -> None:
        call = asyncio.create_task(outcomes(client, request("a", [1], max_tokens=1 << 19)))
        while not client.stats().num_steps:
            await asyncio.sleep(0)
        client.close()
        client.close()
        assert (await call)["a"].error == SHUTDOWN
        with pytest.raises(EngineDeadError, match="must be restarted"):
            await anext(client.generate([request("late", [1])]))

    with_client(at_once, body)


def test_a_killed_child_ends_every_call_with_the_reason() -> None:
    async def body(client: EngineClient, process: EngineProcess) -> None:
        calls = [
            asyncio.create_task(outcomes(client, request(name, [1], max_tokens=9))) for name in "ab"
        ]
        while not client.stats().num_steps:
            await asyncio.sleep(0)
        os.kill(process.pid, signal.SIGKILL)
        for answer in await asyncio.gather(*calls):
            [outcome] = answer.values()
            assert outcome.finish_reason is FinishReason.ERROR
            assert outcome.error == (
                "The engine's process was ended by SIGKILL. This answer is lost with it: ask again."
            )
        assert client.outage is not None
        process.submit([request("late", [1])])  # between the end and its news

    with_client(never, body)


def test_an_engine_that_fails_in_the_child_says_why_and_is_dead(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def body(client: EngineClient, process: EngineProcess) -> None:
        answer = await outcomes(client, request("a", [1], max_tokens=3))
        assert answer["a"].error == "The engine stopped: no such kernel"
        while client.outage is None:
            await asyncio.sleep(0)
        [record] = [r for r in caplog.records if "the engine loop ended" in r.getMessage()]
        assert "RuntimeError: no such kernel" in record.getMessage()

    with_client(failing, body)


def test_signals_to_the_whole_group_are_for_the_parent() -> None:
    async def body(client: EngineClient, process: EngineProcess) -> None:
        for ignored in (signal.SIGINT, signal.SIGTERM):
            os.kill(process.pid, ignored)
        answer = await outcomes(client, request("a", [1], max_tokens=3))
        assert len(answer["a"].token_ids) == 3
        assert os.getpgid(process.pid) != os.getpgid(0)

    with_client(at_once, body)


def test_the_start_is_seen_from_the_parent(caplog: pytest.LogCaptureFixture) -> None:
    startup = Startup()
    process = EngineProcess.launch(talkative, startup)
    try:
        assert process.facts == {"colour": "red"}
        [phase] = startup.phases
        assert (phase.title, phase.state, phase.done, phase.total) == ("Wind up", "done", 4, 4)
        [record] = [record for record in caplog.records if record.name == "fakes"]
        assert (record.getMessage(), record.request_id) == ("it ticks", "r1")
        assert record.levelno == logging.WARNING
    finally:
        process.stop()


@pytest.mark.parametrize(
    ("recipe", "kind", "message", "states"),
    [
        (refused, ModelError, r"^config\.json names no architecture\.$", ["failed"]),
        (broken, EngineError, "^The engine could not be made: no layers$", []),
        (ends, EngineDeadError, "^The engine's process ended with exit code 7 while it st", []),
        (hangs, EngineError, r"said nothing for 3 s while it started \(at 'Wait for", ["failed"]),
    ],
)
def test_a_start_that_fails(
    recipe: Callable, kind: type[Exception], message: str, states: list[str]
) -> None:
    startup = Startup()
    with pytest.raises(kind, match=message):
        EngineProcess.launch(recipe, startup, silence_s=3)
    assert [phase.state for phase in startup.phases] == states


ORPHANS = """
import os, sys
from fakes.child_engines import hangs, talkative
from nimlite.engine.process import EngineProcess

class Told:
    def task(self, title, total, unit="B"):
        print(sys.argv[1], flush=True)
        os.kill(os.getpid(), 9)

EngineProcess.launch({"hangs": hangs, "talkative": talkative}[sys.argv[1]], Told())
"""


@pytest.mark.parametrize("recipe", ["hangs", "talkative"])
def test_a_killed_parent_takes_the_child_along(recipe: str) -> None:
    """The child holds the parent's output open for as long as it lives."""
    path = os.pathsep.join(path for path in sys.path if path)
    with subprocess.Popen(
        [sys.executable, "-c", ORPHANS, recipe],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as parent:
        output, _ = parent.communicate(timeout=60)
    assert parent.returncode == -signal.SIGKILL
    assert output == f"{recipe}\n".encode()


def test_neither_side_needs_torch() -> None:
    """The recipe decides."""
    source = "import sys, nimlite.engine.{child,process}; print('torch' in sys.modules)"
    for module in ("child", "process"):
        command = [sys.executable, "-c", source.replace("{child,process}", module)]
        assert subprocess.check_output(command) == b"False\n"
