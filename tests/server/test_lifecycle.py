"""Starting, overload, lost clients, a failing engine, and the end."""

import asyncio
import logging
import logging.handlers
import queue
import socket
import threading

import httpx
import openai
import pytest
from fakes.live_server import LiveServer, live_server
from fakes.scripted_engine import ScriptedEngine
from fakes.tiny_model import REPLY, make_config, make_model

from nimlite.engine.client import stopped
from nimlite.engine.request import EngineStats
from nimlite.errors import ContextLengthError, EngineDeadError, ModelError, SettingError
from nimlite.server.serve import serve
from nimlite.server.state import ServedModel, ServerState
from nimlite.server.tokenizer import Tokenizer

PATIENCE_S = 30
CHAT = "/v1/chat/completions"
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


def test_before_the_model_is_there(engine: ScriptedEngine, tokenizer: Tokenizer) -> None:
    state = ServerState(make_config())
    with live_server(state) as server, httpx.Client(base_url=server.url) as http:
        assert http.get("/v1/health/live").status_code == 200
        assert "is starting." in http.get("/v1/health/ready").json()["error"]["message"]
        with state.startup.task("download", total=200) as phase:
            phase.advance(84)
            ready = http.get("/v1/health/ready")
            assert (ready.status_code, ready.json()["percent"]) == (503, 42.0)
            assert "download (42 %)" in ready.json()["error"]["message"]
        [phase_json] = http.get("/v1/startup").json()["phases"]
        assert (phase_json["phase"], phase_json["state"]) == ("download", "done")
        refused = http.post(CHAT, json=BODY)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert http.get("/v1/models").status_code == 503
        assert b"num_requests_running" in http.get("/v1/metrics").content
        state.set_ready(make_model(engine, tokenizer))
        assert http.get("/v1/health/ready").status_code == 200
        assert http.post(CHAT, json=BODY).status_code == 200


def test_a_failed_start_ends_the_server_with_its_error() -> None:
    state = ServerState(make_config())

    async def load() -> ServedModel:
        raise ModelError("config.json names no architecture.")

    with pytest.raises(ModelError, match="names no architecture"):
        asyncio.run(serve(state, load))
    assert "could not start: config.json" in state.startup.describe()


def test_a_taken_port_is_named() -> None:
    async def load() -> ServedModel:
        raise AssertionError("not reached")

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingError, match=rf"Port {port} .* Set NIM_SERVER_PORT"):
            asyncio.run(serve(ServerState(make_config(port=port)), load))


def test_overload_says_when_to_come_back(engine: ScriptedEngine, tokenizer: Tokenizer) -> None:
    state = ServerState(make_config())  # of its own: what ended before tells when there is room
    state.set_ready(make_model(engine, tokenizer))
    engine.current_stats = EngineStats(num_waiting=10)
    with live_server(state) as server, httpx.Client(base_url=server.url) as http:
        response = http.post(CHAT, json=BODY)
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")
    assert "10 requests are waiting" in response.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_engine_refuses_has_its_status(
    http: httpx.Client, engine: ScriptedEngine, stream: bool
) -> None:
    engine.refusal = ContextLengthError("300 blocks are needed and the pool has 100.")
    response = http.post(CHAT, json=BODY | {"stream": stream})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


def test_an_engine_that_died(http: httpx.Client, engine: ScriptedEngine) -> None:
    engine.outage = stopped()
    for response in (
        http.post(CHAT, json=BODY),
        http.get("/v1/health/live"),
        http.get("/v1/health/ready"),
    ):
        assert response.status_code == 503
        assert response.json()["error"]["code"] == EngineDeadError.code


def test_a_bug_is_an_error_object_too(http: httpx.Client, engine: ScriptedEngine) -> None:
    logged: queue.Queue[logging.LogRecord] = queue.Queue()
    handler = logging.handlers.QueueHandler(logged)
    logging.getLogger("uvicorn.error").addHandler(handler)
    engine.refusal = ZeroDivisionError("our secret")
    response = http.post(CHAT, json=BODY)
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "internal_error"
    assert "secret" not in response.text
    assert "our secret" in logged.get(timeout=PATIENCE_S).getMessage()
    logging.getLogger("uvicorn.error").removeHandler(handler)


def test_an_engine_that_dies_meanwhile(http: httpx.Client, engine: ScriptedEngine) -> None:
    engine.failure = "The engine stopped: out of memory"
    response = http.post(CHAT, json=BODY)
    assert response.status_code == 503
    assert response.json()["error"]["message"] == engine.failure


def test_an_error_inside_a_stream_is_an_event(
    client: openai.OpenAI, engine: ScriptedEngine
) -> None:
    engine.failure = "The logits are not numbers."
    stream = client.chat.completions.create(**BODY, stream=True)
    received = ""
    with pytest.raises(openai.APIError, match="logits are not numbers"):
        for chunk in stream:
            received += chunk.choices[0].delta.content or ""
    assert received
    assert REPLY.startswith(received)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("num_steps", [0, 3])
def test_a_client_that_goes_away_ends_its_request_at_once(
    server: LiveServer, engine: ScriptedEngine, stream: bool, num_steps: int
) -> None:
    engine.hold(after_steps=num_steps)
    request = httpx.Request("POST", server.url + CHAT, json=BODY | {"stream": stream, "n": 2})
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(_raw(request))
        assert engine.on_held.wait(PATIENCE_S)
        assert not engine.aborted
    assert engine.on_abort.wait(PATIENCE_S)
    assert engine.aborted == {request.id for request in engine.requests}


def test_a_client_that_goes_away_ends_all_that_it_has_sent_ahead(
    server: LiveServer, engine: ScriptedEngine
) -> None:
    engine.hold(after_steps=2)
    request = _raw(httpx.Request("POST", server.url + CHAT, json=BODY))
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(request * 3)
        assert engine.on_held.wait(PATIENCE_S)
    assert engine.on_abort.wait(PATIENCE_S)
    while server.state.running:
        pass
    assert engine.aborted == {request.id for request in engine.requests}


def test_a_client_that_lags_gets_everything_in_fewer_chunks(
    server: LiveServer, engine: ScriptedEngine, reply_ids: list[int]
) -> None:
    engine.reply = lambda request: reply_ids[:1] * 200
    engine.batch_size = 50
    with (
        httpx.Client() as http,
        http.stream(
            "POST", server.url + CHAT, json=BODY | {"stream": True, "max_tokens": 200}
        ) as response,
    ):
        text = "".join(response.iter_text())
    assert text.count("data:") == len(["role"]) + 200 / 50 + len(["[DONE]"])
    assert text.count("Hel") == 200
    assert text.endswith("data: [DONE]\n\n")


def test_draining_refuses_new_requests_and_finishes_running_ones(
    engine: ScriptedEngine, tokenizer: Tokenizer
) -> None:
    state = ServerState(make_config())
    state.set_ready(make_model(engine, tokenizer))
    with live_server(state) as server, httpx.Client(base_url=server.url) as http:
        engine.hold(after_steps=2)
        with http.stream("POST", CHAT, json=BODY | {"stream": True}) as running:
            assert engine.on_held.wait(PATIENCE_S)
            server.handle_exit(15, None)
            refused = http.post(CHAT, json=BODY)
            assert refused.status_code == 503
            assert "shutting down" in refused.json()["error"]["message"]
            assert http.get("/v1/health/ready").status_code == 503
            assert http.get("/v1/health/live").status_code == 200
            engine.release()
            assert "[DONE]" in "".join(running.iter_text())
        server.thread.join(PATIENCE_S)
        assert not server.thread.is_alive()


@pytest.mark.parametrize("stream", [False, True])
def test_what_does_not_finish_in_time_ends_with_an_error(
    engine: ScriptedEngine, tokenizer: Tokenizer, stream: bool
) -> None:
    state = ServerState(make_config(drain_s=0.0))
    state.set_ready(make_model(engine, tokenizer))
    with live_server(state) as server:
        engine.hold(after_steps=2)
        answers: list[httpx.Response] = []
        url = server.url + CHAT
        asking = threading.Thread(
            target=lambda: answers.append(httpx.post(url, json=BODY | {"stream": stream}))
        )
        asking.start()
        assert engine.on_held.wait(PATIENCE_S)
        server.drain()
        asking.join(PATIENCE_S)
    assert answers[0].status_code == (200 if stream else 503)
    assert "shut down before the answer was complete" in answers[0].text
    assert engine.aborted


def _raw(request: httpx.Request) -> bytes:
    head = f"POST {request.url.path} HTTP/1.1\r\n".encode()
    headers = b"".join(b"%s: %s\r\n" % pair for pair in request.headers.raw)
    return head + headers + b"\r\n" + request.read()
