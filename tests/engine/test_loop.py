"""The engine's thread: every request gets its last word, however the thread ends."""

import dataclasses
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence

import pytest
from fakes.driving import Outcome, drive, request
from fakes.gated_engine import GatedEngine
from fakes.llama import Llama

from nimlite.engine.engine import Engine
from nimlite.engine.grammar import GrammarCompiler
from nimlite.engine.loop import EngineLoop
from nimlite.engine.request import Delta, FinishReason, Grammar, GrammarKind
from nimlite.kernels.cpu.cpu_kernels import CpuKernels

SHUTDOWN = "The server is shutting down."


class Mailbox:
    """What a loop reports, by request."""

    def __init__(self) -> None:
        self.deltas: dict[str, list[Delta]] = defaultdict(list)
        self._changed = threading.Condition()

    def __call__(self, deltas: Sequence[Delta]) -> None:
        with self._changed:
            for delta in deltas:
                self.deltas[delta.request_id].append(delta)
            self._changed.notify_all()

    def outcome(self, request_id: str) -> Outcome:
        """Once the request has ended."""

        def ended() -> bool:
            of_one = self.deltas[request_id]
            return bool(of_one) and of_one[-1].finish_reason is not None

        with self._changed:
            assert self._changed.wait_for(ended, timeout=60)
            return Outcome.of(self.deltas[request_id])


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
def engine(tiny: Llama, kernels: CpuKernels) -> Engine:
    return tiny.engine(kernels, kind=GatedEngine)


@pytest.fixture
def loop(engine: GatedEngine, mailbox: Mailbox) -> Iterator[EngineLoop]:
    loop = EngineLoop(engine)
    loop.start(mailbox)
    yield loop
    engine.open_gate()
    loop.stop()


def test_requests_from_many_threads_get_what_each_gets_alone(
    tiny: Llama, kernels: CpuKernels, engine: GatedEngine, loop: EngineLoop, mailbox: Mailbox
) -> None:
    engine.open_gate()
    requests = [
        request(str(i), range(i, 2 * i + 20), max_tokens=12, temperature=1.0, seed=i)
        for i in range(24)
    ]

    def submit(some: Sequence) -> None:
        for each in some:
            loop.submit([each])

    threads = [threading.Thread(target=submit, args=(requests[i::4],)) for i in range(4)]
    for thread in threads:
        thread.start()
    alone = tiny.engine(kernels, prefix_caching=False)
    for each in requests:
        found = dataclasses.replace(mailbox.outcome(each.id), num_cached_tokens=0)
        assert found == drive(alone, each)[each.id]
    for thread in threads:
        thread.join()
    assert loop.stats.num_free_blocks == loop.stats.num_blocks


def test_one_that_never_fits_fails_alone(
    engine: GatedEngine, loop: EngineLoop, mailbox: Mailbox
) -> None:
    engine.open_gate()
    loop.submit([request("long", [1] * 500, max_tokens=100), request("short", [1], max_tokens=3)])
    assert len(mailbox.outcome("short").token_ids) == 3
    failed = mailbox.outcome("long")
    assert failed.finish_reason is FinishReason.REFUSED
    assert failed.error.startswith("This request needs 600 tokens (500 in the prompt and 100 of")


def test_abort_of_waiting_running_and_finished(
    engine: GatedEngine, loop: EngineLoop, mailbox: Mailbox
) -> None:
    loop.submit([request("finished", [1], max_tokens=1), request("running", [2], max_tokens=50)])
    engine.allow(2)
    engine.wait_at_gate(3)
    assert mailbox.outcome("finished").finish_reason is FinishReason.LENGTH
    loop.submit([request("waiting", [3], max_tokens=50), request("kept", [4], max_tokens=2)])
    loop.abort(["finished", "running", "waiting", "unknown"])
    engine.allow()
    at_gate = engine.wait_at_gate(4)
    # Within one step of the abort: the one that was in flight.
    assert (at_gate.num_running, at_gate.num_waiting) == (0, 1)
    assert at_gate.num_free_blocks == at_gate.num_blocks
    engine.open_gate()
    assert len(mailbox.outcome("kept").token_ids) == 2
    assert "waiting" not in mailbox.deltas
    assert not any(delta.finish_reason for delta in mailbox.deltas["running"])


class HeldCompiler:
    """Compiles when a test lets it."""

    def __init__(self, compiler: GrammarCompiler) -> None:
        self.began, self.may_go_on = threading.Event(), threading.Event()
        self.knows = compiler.knows
        self._compiler = compiler

    def check(self, grammar: Grammar) -> None:
        if threading.current_thread().name.startswith("grammars"):
            self.began.set()
            assert self.may_go_on.wait(60)
        self._compiler.check(grammar)


def test_nobody_waits_for_anothers_grammar(
    engine: GatedEngine, loop: EngineLoop, mailbox: Mailbox
) -> None:
    engine.open_gate()
    held = engine.grammars = HeldCompiler(engine.grammars)
    good, bad = Grammar(GrammarKind.REGEX, "[ab]{3}"), Grammar(GrammarKind.REGEX, "[b-a]")
    samples = [request(f"good-{i}", [1], group="g", grammar=good) for i in range(3)]
    loop.submit(samples)
    loop.submit([request("bad", [1], grammar=bad)])
    assert held.began.wait(60)
    loop.submit([request("plain", [2], max_tokens=3)])
    assert len(mailbox.outcome("plain").token_ids) == 3
    loop.abort(["good-1"])
    held.may_go_on.set()
    for name in ("good-0", "good-2"):
        outcome = mailbox.outcome(name)
        assert outcome.finish_reason is FinishReason.STOP
        assert good_text(outcome.token_ids)
    refused = mailbox.outcome("bad")
    assert refused.finish_reason is FinishReason.REFUSED
    assert "invalid character class range" in refused.error
    assert "good-1" not in mailbox.deltas
    assert loop.stats.num_free_blocks == loop.stats.num_blocks


def good_text(token_ids: Sequence[int]) -> bool:
    return len(token_ids) == 4 and set(token_ids[:3]) <= {97, 98}


def test_stop_answers_who_waits_for_a_grammar(
    engine: GatedEngine, loop: EngineLoop, mailbox: Mailbox
) -> None:
    held = engine.grammars = HeldCompiler(engine.grammars)
    loop.submit([request("a", [1], grammar=Grammar(GrammarKind.REGEX, "x"))])
    assert held.began.wait(60)
    loop.stop()
    assert mailbox.outcome("a").error == SHUTDOWN
    held.may_go_on.set()


def test_stop_under_load_answers_everybody(
    engine: GatedEngine, loop: EngineLoop, mailbox: Mailbox
) -> None:
    requests = [request(str(i), [i] * 10, max_tokens=400) for i in range(100)]
    loop.submit(requests)
    engine.wait_at_gate(1)
    stopping = threading.Thread(target=loop.stop)
    stopping.start()
    engine.open_gate()
    stopping.join(60)
    assert not loop.is_alive
    for each in requests:
        outcome = mailbox.outcome(each.id)
        assert (outcome.finish_reason, outcome.error) == (FinishReason.ERROR, SHUTDOWN)
    # 64 had begun, the others waited
    assert sum(len(deltas) for deltas in mailbox.deltas.values()) > len(requests)


def test_a_failing_step_ends_every_request_with_its_reason(
    engine: GatedEngine, loop: EngineLoop, mailbox: Mailbox, caplog: pytest.LogCaptureFixture
) -> None:
    loop.submit([request("a", [1], max_tokens=9), request("b", [2], max_tokens=9)])
    engine.wait_at_gate(1)
    loop.submit([request("c", [3], max_tokens=9)])
    engine.failure = RuntimeError("no such kernel")
    engine.open_gate()
    for name in "abc":
        outcome = mailbox.outcome(name)
        assert outcome.finish_reason is FinishReason.ERROR
        assert outcome.error == "The engine stopped: no such kernel"
    assert not loop.is_alive
    assert "the engine loop ended" in caplog.text


def test_a_request_that_comes_too_late_is_answered(engine: GatedEngine, mailbox: Mailbox) -> None:
    def report(deltas: Sequence[Delta]) -> None:
        """Whoever hears of the end asks again at once, in the very moment of the end."""
        mailbox(deltas)
        if "first" in {delta.request_id for delta in deltas}:
            assert not loop.is_alive
            loop.submit([request("second", [1])])

    loop = EngineLoop(engine)
    loop.start(report)
    loop.submit([request("first", [1])])
    engine.wait_at_gate(1)
    stopping = threading.Thread(target=loop.stop)
    stopping.start()
    loop.submit([request("meanwhile", [1])])
    engine.failure = RuntimeError("broken")
    engine.open_gate()
    stopping.join(60)
    loop.submit([request("third", [1])])
    loop.stop()
    for name in ("first", "meanwhile", "second", "third"):
        assert mailbox.outcome(name).error == "The engine stopped: broken"
