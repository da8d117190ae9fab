"""The load client against the real server, and against one that answers what it is told to."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.live_server import live_server
from fakes.scripted_engine import ScriptedEngine
from fakes.tiny_model import make_config, make_model
from fakes.tiny_tokenizer import save_tokenizer

from nimlite.bench.client import Target, run_load
from nimlite.bench.workload import Workload, make_prompts
from nimlite.errors import BenchmarkError
from nimlite.server.state import ServerState
from nimlite.server.tokenizer import Tokenizer

WORKLOAD = Workload(concurrency=3, num_requests=7, num_prompt_tokens=20, num_output_tokens=5)
EVENT = b'data: {"choices":[{"text":"a"}],"usage":{"prompt_tokens":2,"completion_tokens":5}}\n\n'


def test_the_real_server_is_measured(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(save_tokenizer(tmp_path))
    engine = ScriptedEngine(lambda request: [1, 2, 3, 4, 5], eos_id=0)
    state = ServerState(make_config())
    state.set_ready(make_model(engine, tokenizer))
    prompts = make_prompts(WORKLOAD, seed=0)
    with live_server(state) as server:
        run = run_load(Target(port=server.port, model="tiny"), WORKLOAD, prompts)
    assert len(run.timings) == len(engine.requests) == 7
    assert {timing.num_output_tokens for timing in run.timings} == {5}
    asked = sum(len(request.prompt_token_ids) for request in engine.requests)
    assert sum(timing.num_prompt_tokens for timing in run.timings) == asked
    assert all(t.sent < t.arrivals[0] <= t.arrivals[-1] for t in run.timings)
    assert run.client_cpu_s > 0


@pytest.fixture
def answer() -> Iterator["CannedServer"]:
    server = CannedServer()
    yield server
    server.close()


@pytest.mark.parametrize("segment", [1, 7, 1000])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_an_answer_comes_in_any_pieces(
    answer: "CannedServer", segment: int, is_chunked: bool
) -> None:
    head = b"HTTP/1.1 200 OK\r\n" + b"Transfer-Encoding: chunked\r\n" * is_chunked + b"\r\n"
    parts = [EVENT, EVENT, b"data: [DONE]\n\n"]
    if is_chunked:
        parts = [b"%x\r\n%s\r\n" % (len(part), part) for part in [*parts, b""]]
    answer.segment, answer.text = segment, head + b"".join(parts)
    (timing,) = run_load(answer.target, _one(5), ["a"]).timings
    assert (len(timing.arrivals), timing.num_prompt_tokens, timing.num_output_tokens) == (2, 2, 5)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\n{}", "ends with: 'HTTP/1.1 404 Not Found"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + EVENT, "not the 6 tokens that were asked for"),
        (b'HTTP/1.1 200 OK\r\n\r\ndata: {"error":{"message":"no"}}\n\n', "an error: .*no"),
    ],
)
def test_what_is_no_answer_is_no_figure(
    answer: "CannedServer", text: bytes, complaint: str
) -> None:
    answer.text = text
    with pytest.raises(BenchmarkError, match=complaint):
        run_load(answer.target, _one(6), ["a"])


def _one(num_output_tokens: int) -> Workload:
    return Workload(
        concurrency=1,
        num_requests=1,
        num_prompt_tokens=1,
        num_output_tokens=num_output_tokens,
    )


class CannedServer:
    """Sends `text` to whoever asks, in segments."""

    def __init__(self) -> None:
        self.text, self.segment = b"", 1000
        self._loop = asyncio.new_event_loop()
        start = asyncio.start_server(self._answer, "127.0.0.1", 0)
        self._server = self._loop.run_until_complete(start)
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        port = self._server.sockets[0].getsockname()[1]
        self.target = Target(port=port, model="any")

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._server.close()
        self._loop.run_until_complete(self._server.wait_closed())
        self._loop.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for start in range(0, len(self.text), self.segment):
            writer.write(self.text[start : start + self.segment])
            await writer.drain()
        writer.close()
        await writer.wait_closed()
