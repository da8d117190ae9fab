"""Heads of requests that are long or slow, as raw bytes."""

import functools
import socket

import httpx
import pytest
from fakes.live_server import LiveServer, running
from fakes.scripted_engine import ScriptedEngine
from fakes.tiny_model import make_config, make_model

from nimlite.server.connection import Connection
from nimlite.server.state import ServerState
from nimlite.server.tokenizer import Tokenizer

PATIENCE_S = 30
LIMIT = 64 * 1024
START = b"GET /v1/health/live HTTP/1.1\r\nHost: here\r\n"


def answer_to(port: int, *parts: bytes) -> bytes:
    """All that comes until the server closes; sends on while it lets us."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
        try:
            for part in parts:
                connection.sendall(part)
            return b"".join(iter(lambda: connection.recv(65536), b""))
        except ConnectionError:
            return b""


def header(size: int) -> bytes:
    return b"X-Filler: " + b"x" * size + b"\r\n"


def end(size: int = 0) -> bytes:
    return header(size) + b"Connection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ((START, end(LIMIT - 1000)), 200),
        ((START, end(LIMIT + 1000)), 431),
        ((START, *[header(1000)] * 60, end()), 200),
        ((START, *[header(1000)] * 70, end()), 431),
        ((START + b"a: b\r\n" * 9_000 + end(),), 200),
        ((START + b"a: b\r\n" * 40_000 + end(),), 431),
        ((b"GET /" + b"x" * (LIMIT + 1000) + b" HTTP/1.1\r\nHost: here\r\n", end()), 431),
        ((START.replace(b"GET", b"POST"), b"Content-Length: 9\r\n", end(LIMIT), b"x" * 9), 431),
    ],
)
def test_a_long_head_is_refused(server: LiveServer, parts: tuple[bytes, ...], status: int) -> None:
    answer = answer_to(server.port, *parts)
    if answer or status == 200:  # closing on what still comes may reset what was said
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert answer.count(b"HTTP/1.1 ") == 1
    if answer and status == 431:
        assert b"headers are too large: 65536 bytes" in answer
        assert b"nosniff" in answer.lower()


def test_a_head_without_an_end_is_not_kept(server: LiveServer) -> None:
    answer = answer_to(server.port, START, b"X-Filler: ", *[b"x" * 65536] * 200)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")
    assert httpx.get(f"{server.url}/v1/health/live").status_code == 200


def test_a_body_is_not_a_head(server: LiveServer, engine: ScriptedEngine) -> None:
    with httpx.Client(base_url=server.url) as http:  # twice in one connection
        for _ in range(2):
            refused = http.post("/v1/completions", content=b"x" * 900_000)
            assert refused.status_code == 415


def test_a_body_that_stands_still_ends_the_connection(
    engine: ScriptedEngine, tokenizer: Tokenizer
) -> None:
    state = ServerState(make_config())
    state.set_ready(make_model(engine, tokenizer))
    server = LiveServer(state)
    server.config.http = functools.partial(Connection, body_s=0.5)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"
    with running(server):
        assert answer_to(server.port, head + b"Content-Length: 99\r\n\r\n", b'{"model"') == b""
        engine.hold()  # an answer may take longer
        body = b'{"model": "tiny", "prompt": "x"}'
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as connection:
            connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            assert engine.on_held.wait(PATIENCE_S)
            assert answer_to(server.port, head + b"Content-Length: 9\r\n\r\n") == b""
            engine.release()
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_slow_head_is_refused_and_an_empty_connection_closed() -> None:
    state = ServerState(make_config())
    server = LiveServer(state)
    server.config.http = functools.partial(Connection, head_s=0.5)
    with running(server):
        assert answer_to(server.port) == b""
        late = answer_to(server.port, START)
        assert late.startswith(b"HTTP/1.1 408 ")
        assert b"were not complete after 0.5 seconds" in late
        for more in (b"\r\n", START):  # after an answer
            with socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as connection:
                connection.sendall(START + b"\r\n")
                assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
                connection.sendall(more)
                rest = b"".join(iter(functools.partial(connection.recv, 65536), b""))
                assert rest.startswith(b"HTTP/1.1 408 ") == (more == START)
