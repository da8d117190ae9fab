"""A load client that costs next to nothing, for it shares the cores with what it measures.

While requests run it only stores bytes and the times they came; they are read as HTTP and JSON when
the run is over. (A general client takes longer for a token than the server does.)
"""

import asyncio
import gc
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from nimlite.bench.timing import RequestTiming
from nimlite.bench.workload import Workload
from nimlite.errors import BenchmarkError

Prompt = str | list[int]
"""A text, or token ids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A server that speaks OpenAI's completions."""

    port: int
    model: str
    host: str = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class LoadRun:
    """What a workload gave: a timing a request, and the client's own processor time."""

    timings: tuple[RequestTiming, ...]
    client_cpu_s: float


def run_load(target: Target, workload: Workload, prompts: Sequence[Prompt]) -> LoadRun:
    """Send the prompts, `workload.concurrency` at a time, and wait for all answers.

    Raises BenchmarkError for an answer that is an error, or not as long as was asked for.
    """
    gc.collect()
    gc.disable()
    try:
        started = time.process_time()
        exchanges = asyncio.run(_send_all(target, workload, prompts))
        cpu_s = time.process_time() - started
    finally:
        gc.enable()
    return LoadRun(tuple(_read(exchange, workload) for exchange in exchanges), cpu_s)


async def _send_all(
    target: Target, workload: Workload, prompts: Sequence[Prompt]
) -> list["_Exchange"]:
    waiting = iter([_request(target, workload, prompt) for prompt in prompts])
    done: list[_Exchange] = []

    async def work() -> None:
        for request in waiting:
            done.append(await _exchange(target, request))

    await asyncio.gather(*(work() for _ in range(workload.concurrency)))
    return done


def _request(target: Target, workload: Workload, prompt: Prompt) -> bytes:
    body = json.dumps(
        {
            "model": target.model,
            "prompt": prompt,
            "max_tokens": workload.num_output_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()
    # One connection a request: its end is the end of the answer.
    head = (
        "POST /v1/completions HTTP/1.1",
        f"Host: {target.host}:{target.port}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


async def _exchange(target: Target, request: bytes) -> "_Exchange":
    loop = asyncio.get_running_loop()
    transport, exchange = await loop.create_connection(
        lambda: _Exchange(loop.create_future()), target.host, target.port
    )
    exchange.sent = time.perf_counter()
    transport.write(request)
    await exchange.ended
    return exchange


@dataclass(slots=True)
class _Exchange(asyncio.Protocol):
    """One request's answer as it came."""

    ended: asyncio.Future[None]
    sent: float = 0.0
    received: list[tuple[float, bytes]] = field(default_factory=list)

    def data_received(self, data: bytes) -> None:
        self.received.append((time.perf_counter(), data))

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(exc)


def _read(exchange: _Exchange, workload: Workload) -> RequestTiming:
    """Raises BenchmarkError for what is no complete stream."""
    arrivals: list[float] = []
    usage: dict[str, Any] = {}
    for moment, event in _events(exchange.received):
        if "error" in event:
            raise BenchmarkError(f"The server answered with an error: {event['error']}.")
        if any(choice.get("text") for choice in event["choices"]):
            arrivals.append(moment)
        usage = event.get("usage") or usage
    if usage.get("completion_tokens") != workload.num_output_tokens or not arrivals:
        answer = b"".join(data for _, data in exchange.received).decode(errors="replace")
        raise BenchmarkError(
            f"An answer is not the {workload.num_output_tokens} tokens that were asked for; it"
            f" ends with: {answer[-300:]!r}"
        )
    return RequestTiming(
        sent=exchange.sent,
        arrivals=tuple(arrivals),
        num_prompt_tokens=usage["prompt_tokens"],
        num_output_tokens=usage["completion_tokens"],
    )


def _events(received: Sequence[tuple[float, bytes]]) -> Iterator[tuple[float, dict[str, Any]]]:
    """The stream's JSON events, each with the time at which its last byte came."""
    buffer = b""
    for moment, body in _bodies(received):
        *lines, buffer = (buffer + body).split(b"\n")
        for line in lines:
            if line.startswith(b"data: {"):
                yield moment, json.loads(line.removeprefix(b"data: "))


def _bodies(received: Sequence[tuple[float, bytes]]) -> Iterator[tuple[float, bytes]]:
    """The answer without its head and without the sizes that `chunked` puts between its parts."""
    buffer = bytearray()
    in_head, size = True, 0
    for moment, data in received:
        buffer += data
        if in_head and (end := buffer.find(b"\r\n\r\n")) >= 0:
            in_head, is_chunked = False, b"transfer-encoding: chunked" in buffer[:end].lower()
            del buffer[: end + 4]
        if in_head:
            continue
        if not is_chunked:
            yield moment, bytes(buffer)
            buffer.clear()
            continue
        while (end := buffer.find(b"\r\n")) >= 0:
            size = int(buffer[:end], 16)
            if len(buffer) < end + 2 + size + 2:
                break
            yield moment, bytes(buffer[end + 2 : end + 2 + size])
            del buffer[: end + 2 + size + 2]
