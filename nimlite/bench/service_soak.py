"""Does a whole service keep its promises for as long as it runs? Many clients, some of them bad,
over a server whose engine is killed again and again.

Every request must end in the answer that the same prompt had alone, in the error that it deserves,
or in one that says to ask again; and memory must not grow.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nimlite.bench import http_exchange as http
from nimlite.bench.server import Server, ServerCommand, memory_of, running, tree
from nimlite.errors import BenchmarkError

PATH = "/v1/completions"
_BEGINNINGS = (
    "We hold these truths to be self-evident,",
    "def fibonacci(n):",
    "The capital of France is Paris. The capital of Italy is",
    "Dear Sir or Madam, I am writing to you because",
    "1, 1, 2, 3, 5, 8,",
    "Once upon a time there was a small engine that",
)
_HANG_S = 240.0
_WARM_SHARE = 0.2
"""Of the time, before memory is compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """How hard it is."""

    seconds: float = 1200.0
    clients: int = 64
    kill_every_s: float = 120.0
    repeats: tuple[int, ...] = (1, 4, 16, 64)
    """Of a text in the prompts: of about 10 to 700 tokens."""
    longest: int = 96
    """Of the answers, in tokens."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSoak:
    """What came of it."""

    seconds: float
    outcomes: Mapping[str, int]
    problems: Sequence[str]
    """The first of those that should not be."""
    num_problems: int
    recovery_s: Sequence[float]
    """From each kill until the server was ready again."""
    server_mib: tuple[float, float]
    """Resident memory of the server's own process, after the first fifth and at the end."""
    engine_mib: Sequence[float]
    """Of each engine's process, before it was killed."""

    @property
    def growth(self) -> float:
        """Of the server's memory, as a share."""
        before, after = self.server_mib
        return after / before - 1 if before else 0.0

    def json_line(self) -> str:
        return json.dumps({"kind": "service_soak", "growth": self.growth, **asdict(self)})

    def __str__(self) -> str:
        outcomes = ", ".join(f"{number} {name}" for name, number in sorted(self.outcomes.items()))
        recovery = ", ".join(f"{seconds:.1f}" for seconds in self.recovery_s) or "-"
        engines = ", ".join(f"{mib:.0f}" for mib in self.engine_mib) or "-"
        lines = (
            f"{sum(self.outcomes.values())} requests in {self.seconds:.0f} s: {outcomes}",
            f"problems: {self.num_problems}",
            *(f"  {problem}" for problem in self.problems),
            f"seconds from each kill to ready: {recovery}",
            f"server: {self.server_mib[0]:.0f} MiB, then {self.server_mib[1]:.0f} MiB"
            f" ({100 * self.growth:+.1f} %); engines before their kills, MiB: {engines}",
        )
        return "\n".join(lines)


def service_command(model: str | None, flags: Sequence[str] = ()) -> ServerCommand:
    """nimlite with its engine in a process of its own."""
    program = (sys.executable, "-m", "nimlite", "serve", *([model] if model else ()))
    options = ("--engine-process", "1", "--served-model-name", "soak", "--port", "{port}")
    return ServerCommand(
        system="nimlite",
        variant="soak",
        arguments=(*program, *options, *flags),
        model="soak",
        ready_path="/v1/health/ready",
    )


def run_service_soak(command: ServerCommand, case: Case, log_file: Path | None) -> ServiceSoak:
    """Raises BenchmarkError for a server that does not start or can't answer one request alone."""
    with running(command, log_file) as server:
        return asyncio.run(_Soak(server, case).run())


@dataclass(slots=True)
class _Soak:
    server: Server
    case: Case
    outcomes: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    recovery_s: list[float] = field(default_factory=list)
    engine_mib: list[float] = field(default_factory=list)
    samples: list[tuple[float, float]] = field(default_factory=list)
    """Times, and MiB of the server's own process."""
    right: list[tuple[str, str]] = field(default_factory=list)
    """Prompts, and what each is gone on with alone."""

    @property
    def port(self) -> int:
        return self.server.target.port

    async def run(self) -> ServiceSoak:
        for prompt in (" ".join([b] * times) for b in _BEGINNINGS for times in self.case.repeats):
            answer = await http.ask(self.port, _completion(prompt, self.case.longest))
            if answer.status != 200:
                raise BenchmarkError(f"The server can't answer alone: {answer.body[:300]!r}.")
            self.right.append((prompt, answer.json()["choices"][0]["text"]))
        started = time.monotonic()
        until = started + self.case.seconds
        watchers = [asyncio.create_task(self._kill()), asyncio.create_task(self._sample(started))]
        clients = (self._client(number, until) for number in range(self.case.clients))
        await asyncio.gather(*clients)
        for watcher in watchers:
            watcher.cancel()
        warm = [mib for at, mib in self.samples if at >= _WARM_SHARE * self.case.seconds]
        few = max(1, len(warm) // 10)
        return ServiceSoak(
            seconds=time.monotonic() - started,
            outcomes=dict(self.outcomes),
            problems=self.problems[:20],
            num_problems=len(self.problems),
            recovery_s=self.recovery_s,
            server_mib=(_mean(warm[:few]), _mean(warm[-few:])),
            engine_mib=self.engine_mib,
        )

    async def _client(self, number: int, until: float) -> None:
        rng = random.Random(1000 * self.case.seed + number)
        while time.monotonic() < until:
            kind = rng.choices(tuple(_KINDS), tuple(_KINDS.values()))[0]
            pause_s = 0.0
            try:
                async with asyncio.timeout(_HANG_S):
                    outcome, pause_s = await self._one(kind, rng)
            except TimeoutError:
                outcome = self._problem(kind, f"no end after {_HANG_S:g} s")
            except (OSError, ValueError, KeyError, IndexError) as error:
                outcome = self._problem(kind, repr(error))
            self.outcomes[outcome] += 1
            await asyncio.sleep(pause_s)

    async def _one(self, kind: str, rng: random.Random) -> tuple[str, float]:
        """The outcome, and what to wait before the next request."""
        if kind == "bad":
            return self._judge_bad(*(await self._bad(rng))), 0.0
        prompt, alone = rng.choice(self.right)
        num_tokens = rng.randint(1, self.case.longest)
        stream = kind != "whole" and (kind != "cancel" or rng.random() < 0.5)
        request = _completion(prompt, num_tokens, stream=stream)
        leaves_after_s = rng.uniform(0.0, 5.0) if kind == "cancel" else None
        pause_s = rng.uniform(0.05, 0.4) if kind == "slow" else 0.0
        answer = await http.ask(self.port, request, pause_s=pause_s, hang_up_after_s=leaves_after_s)
        if kind == "cancel" and not answer.is_complete:
            return "cancelled", 0.0
        return self._judge(kind, answer, alone, num_tokens)

    async def _bad(self, rng: random.Random) -> tuple[http.Answer, Sequence[int]]:
        body = {"model": "soak", "prompt": "x"}
        request, expected = rng.choice(
            (
                (http.post(PATH, b'{"model": "soak", "prompt"'), (400,)),
                (http.post(PATH, body | {"max_tokens": -1}), (400,)),
                (http.post(PATH, body | {"maxtokens": 3}), (400,)),
                (http.post(PATH, body | {"model": "other"}), (404,)),
                (http.post(PATH, body | {"prompt": "word " * 20000}), (400,)),
                (http.post(PATH, body | {"guided_json": {"type": "nothing"}}), (400,)),
                (http.post(PATH, body | {"prompt": [10**9]}), (400,)),
                (http.post(PATH, body, X_Request_Timeout="never"), (400,)),
                (http.get("/v1/nothing"), (404,)),
                (http.get("/v1/requests/none", "DELETE"), (404,)),
                (b"GET / HTTP/9\r\n\r\n", (400,)),
                (http.get("/v1/metrics"), (200,)),
            )
        )
        return await http.ask(self.port, request), expected

    def _judge_bad(self, answer: http.Answer, expected: Sequence[int]) -> str:
        if answer.status in expected:
            return "refused rightly"
        if answer.status in (429, 503) and "retry-after" in answer.headers:
            return "to be asked again"
        return self._problem("bad", f"{answer.status} instead of {expected}: {answer.body[:200]!r}")

    def _judge(
        self, kind: str, answer: http.Answer, alone: str, num_tokens: int
    ) -> tuple[str, float]:
        if answer.status in (429, 503):
            if "retry-after" not in answer.headers:
                return self._problem(kind, f"{answer.status} without Retry-After"), 1.0
            return "to be asked again", min(5.0, float(answer.headers["retry-after"]))
        if answer.status != 200 or not answer.is_complete:
            what = "cut off" if answer.status == 200 else str(answer.status)
            return self._problem(kind, f"{what}: {answer.body[-200:]!r}"), 1.0
        is_stream = answer.headers["content-type"].startswith("text/event-stream")
        parts = answer.events() if is_stream else [answer.json()]
        failed = next((p["error"] for p in parts if isinstance(p, dict) and "error" in p), None)
        if failed is not None:
            if failed["code"] in ("engine_dead", "not_ready"):
                return "to be asked again", 1.0
            return self._problem(kind, f"{failed}"), 1.0
        if is_stream and parts.pop() != "[DONE]":
            return self._problem(kind, f"a stream without its end: {answer.body[-200:]!r}"), 1.0
        text = "".join(choice["text"] for part in parts for choice in part["choices"])
        usage = [part["usage"] for part in parts if part.get("usage")]
        num_got = usage[-1]["completion_tokens"] if usage else -1
        if num_got != num_tokens or not alone.startswith(text.rstrip("\ufffd")):
            said = f"{num_got} of {num_tokens} tokens, {text!r:.200} is not {alone!r:.200}"
            return self._problem(kind, f"wrong: {said}"), 0.0
        return f"right ({kind})", 0.0

    def _problem(self, kind: str, what: str) -> str:
        self.problems.append(f"{kind}: {what}")
        return "PROBLEM"

    async def _kill(self) -> None:
        """The engine's process, every so often."""
        while True:
            await asyncio.sleep(self.case.kill_every_s)
            engine = self._engine()
            if engine is None:
                continue
            self.engine_mib.append(memory_of(engine, "VmRSS") / 2**20)
            os.kill(engine, signal.SIGKILL)
            began = time.monotonic()
            while self._engine() in (engine, None) or not await self._is_ready():
                await asyncio.sleep(0.1)
            self.recovery_s.append(time.monotonic() - began)

    def _engine(self) -> int | None:
        children = tree(self.server.pid)[1:]
        return children[0] if children else None

    async def _is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            return (await http.ask(self.port, http.get("/v1/health/ready"))).status == 200
        return False

    async def _sample(self, started: float) -> None:
        while True:
            mib = memory_of(self.server.pid, "VmRSS", descendants=False) / 2**20
            self.samples.append((time.monotonic() - started, mib))
            await asyncio.sleep(1.0)


_KINDS = {"whole": 40, "stream": 25, "slow": 8, "cancel": 15, "bad": 12}
"""Of the requests, by weight."""


def _completion(prompt: str, num_tokens: int, *, stream: bool = False) -> bytes:
    body: dict[str, Any] = {
        "model": "soak",
        "prompt": prompt,
        "max_tokens": num_tokens,
        "temperature": 0,
        "ignore_eos": True,
    }
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return http.post(PATH, body)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
