"""Deadlines, cancelling, the limits of keys and of the queue, and whose a request is."""

import contextlib
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
from fakes.live_server import LiveServer, live_server
from fakes.scripted_engine import ScriptedEngine
from fakes.tiny_model import REPLY, make_config, make_model

from nimlite.errors import OverloadedError, QuotaError
from nimlite.server.admission import Admission, ServiceRate
from nimlite.server.api_keys import NO_KEY, ApiKeys, Key
from nimlite.server.connection import Connection
from nimlite.server.state import ServerState
from nimlite.server.tokenizer import Tokenizer

PATIENCE_S = 30
CHAT = "/v1/chat/completions"
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
LIMITED, FREE = "limited-key-of-tests", "another-key-of-tests"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def locked(
    shared_engine: ScriptedEngine, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    file: Path = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(f"{LIMITED} max_in_flight=1 weight=3\n{FREE}\n")
    state = ServerState(make_config(keys=ApiKeys.read((), file, asked="")))
    state.set_ready(make_model(shared_engine, tokenizer))
    with live_server(state) as running:
        yield running


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("num_steps", [0, 3])
def test_a_deadline_ends_a_request(
    http: httpx.Client, engine: ScriptedEngine, stream: bool, num_steps: int
) -> None:
    engine.hold(after_steps=num_steps)
    body = BODY | {"stream": stream}
    response = http.post(CHAT, json=body, headers={"X-Request-Timeout": "0.3"})
    assert response.status_code == (200 if stream and num_steps else 504)
    assert '"code":"deadline_exceeded"' in response.text
    assert "not complete after the 0.3 seconds of the request's X-Request-Timeout" in response.text
    assert engine.aborted == {request.id for request in engine.requests}


def test_a_deadline_that_is_kept_changes_nothing(
    http: httpx.Client, engine: ScriptedEngine
) -> None:
    response = http.post(CHAT, json=BODY, headers={"X-Request-Timeout": "300"})
    assert response.json()["choices"][0]["message"]["content"] == REPLY


@pytest.mark.parametrize("given", ["0", "-1", "soon", "1e3", "nan", "86401"])
def test_a_deadline_that_is_none_is_refused(http: httpx.Client, given: str) -> None:
    for path, body in ((CHAT, BODY), ("/v1/responses", {"model": "tiny", "input": "hi"})):
        response = http.post(path, json=body, headers={"X-Request-Timeout": given})
        assert response.status_code == 400
        assert response.json()["error"]["message"] == (
            "Invalid value for the header 'X-Request-Timeout': expected seconds, more than 0 and "
            f"at most 86400, got {given!r}."
        )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("by", ["request", "answer"])
def test_a_request_is_cancelled_by_its_id(
    http: httpx.Client, server: LiveServer, engine: ScriptedEngine, stream: bool, by: str
) -> None:
    engine.hold(after_steps=2)
    headers = {"X-Request-Id": "mine/1"}
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(
            httpx.post, server.url + CHAT, json=BODY | {"stream": stream}, headers=headers
        )
        assert engine.on_held.wait(PATIENCE_S)
        answer_id = engine.requests[0].id.removesuffix("-0")
        given = "mine/1" if by == "request" else answer_id
        cancelled = http.delete(f"/v1/requests/{given}")
        assert cancelled.json() == {"id": given, "object": "request", "num_cancelled": 1}
        response = asked.result(PATIENCE_S)
    assert response.status_code == (200 if stream else 499)
    assert '"code":"request_cancelled"' in response.text
    assert engine.aborted == {engine.requests[0].id}
    again = http.delete(f"/v1/requests/{given}")
    assert again.status_code == 404
    assert "is under way: it has ended, or was never here" in again.json()["error"]["message"]


def test_a_response_in_the_background_is_cancelled_and_has_its_deadline(
    http: httpx.Client, client: openai.OpenAI, engine: ScriptedEngine
) -> None:
    engine.hold()
    ask = {"model": "tiny", "input": "hi", "background": True}
    first = client.responses.create(**ask)
    assert engine.on_held.wait(PATIENCE_S)
    assert http.delete(f"/v1/requests/{first.id}").json()["num_cancelled"] == 1
    late = client.responses.create(**ask, extra_headers={"X-Request-Timeout": "0.1"})
    while (ended := client.responses.retrieve(late.id)).status == "in_progress":
        pass
    assert (ended.status, client.responses.retrieve(first.id).status) == ("failed", "cancelled")
    assert "0.1 seconds of the request's" in ended.error.message


def test_one_key_neither_sees_nor_cancels_anothers_requests_nor_takes_its_limit(
    locked: LiveServer, engine: ScriptedEngine
) -> None:
    engine.hold()
    url, named = locked.url + CHAT, {"X-Request-Id": "one"}
    with httpx.Client(base_url=locked.url) as http, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx.post, url, json=BODY, headers=bearer(LIMITED) | named)
        assert engine.on_held.wait(PATIENCE_S)
        assert http.delete("/v1/requests/one", headers=bearer(FREE)).status_code == 404
        second = http.post(CHAT, json=BODY, headers=bearer(LIMITED))
        assert (second.status_code, second.headers["retry-after"]) == (429, "1")
        assert second.json()["error"]["code"] == "rate_limit_exceeded"
        assert "has 1 requests under way and may have 1" in second.json()["error"]["message"]
        engine.release()
        assert http.post(CHAT, json=BODY, headers=bearer(FREE)).status_code == 200
        assert asked.result(PATIENCE_S).status_code == 200
        assert http.post(CHAT, json=BODY, headers=bearer(LIMITED)).status_code == 200
    clients = {request.client: request.weight for request in engine.requests}
    assert sorted(clients.values()) == [1.0, 3.0]
    assert all(name.startswith("key ") for name in clients)


def test_without_keys_a_request_is_its_users_or_its_addresss(
    http: httpx.Client, engine: ScriptedEngine
) -> None:
    http.post(CHAT, json=BODY | {"user": "anna"})
    http.post(CHAT, json=BODY)
    http.post("/v1/responses", json={"model": "tiny", "input": "hi", "user": "bert"})
    message = BODY | {"max_tokens": 3, "metadata": {"user_id": "cleo"}}
    http.post("/v1/messages", json=message)
    clients = [request.client for request in engine.requests]
    assert clients == ["user anna", "address 127.0.0.1", "user bert", "user cleo"]


def test_a_burst_is_bounded_before_the_engine_has_counted_it() -> None:
    admission = Admission(max_waiting=2)
    tickets = [admission.take(NO_KEY, num_waiting=0, max_num_seqs=3) for _ in range(5)]
    with pytest.raises(OverloadedError, match="2 requests are waiting and the limit is 2"):
        admission.take(NO_KEY, num_waiting=0, max_num_seqs=3)
    tickets[0].release(7)
    admission.take(NO_KEY, num_waiting=0, max_num_seqs=3)


def test_who_is_refused_is_told_to_come_as_fast_as_requests_end() -> None:
    clock = Clock()
    rate = ServiceRate(clock)
    for _ in range(11):
        rate.began()
    for _ in range(10):  # four a second
        rate.ended()
        clock.now += 0.25
    assert [rate.retry_after_s() for _ in range(9)] == [1, 1, 1, 1, 2, 2, 2, 2, 3]
    for _ in range(1000):
        last = rate.retry_after_s()
    assert last == 60
    clock.now += 100  # nothing has ended since: they come slower
    assert rate.retry_after_s() > 10


def test_time_without_requests_says_nothing_of_how_fast_they_end() -> None:
    clock = Clock()
    rate = ServiceRate(clock)
    for _ in range(64):  # ten a second
        rate.began()
        clock.now += 0.1
        rate.ended()
    clock.now += 3600
    for _ in range(5):
        rate.began()
    clock.now += 0.1
    assert [rate.retry_after_s() for _ in range(15)][::14] == [1, 2]


def test_tokens_a_minute_are_counted_as_requests_end_and_come_back_with_time() -> None:
    clock = Clock()
    admission = Admission(max_waiting=9, clock=clock)
    key = Key(name="k", tokens_per_minute=600)
    ask = {"num_waiting": 0, "max_num_seqs": 9}
    first, second = admission.take(key, **ask), admission.take(key, **ask)
    first.release(500)
    second.release(200)
    with pytest.raises(QuotaError, match="has used its 600 tokens a minute") as raised:
        admission.take(key, **ask)
    assert raised.value.retry_after_s == 11
    clock.now += 11
    admission.take(key, **ask).release(0)
    admission.take(NO_KEY, **ask).release(10**9)
    admission.take(NO_KEY, **ask)


def test_a_client_that_stops_reading_stalls_nobody_and_is_cut_off(
    engine: ScriptedEngine,
    tokenizer: Tokenizer,
    reply_ids: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Impatient(Connection):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs, stall_s=1.0)

    monkeypatch.setattr("nimlite.server.serve.Connection", Impatient)
    engine.reply = lambda request: reply_ids[:1] * 200
    # More than sockets hold.
    body = BODY | {"stream": True, "n": 30, "max_tokens": 200, "logprobs": True}
    body |= {"top_logprobs": 20}
    state = ServerState(make_config())
    state.set_ready(make_model(engine, tokenizer))
    with live_server(state) as server, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", server.port))
        request = httpx.Request("POST", server.url + CHAT, json=body)
        lines = [f"{name}: {value}" for name, value in request.headers.items()]
        deaf.sendall("\r\n".join((f"POST {CHAT} HTTP/1.1", *lines, "", "")).encode())
        deaf.sendall(request.content)
        while not engine.requests:
            pass
        other = httpx.post(server.url + CHAT, json=BODY | {"max_tokens": 3}, timeout=PATIENCE_S)
        assert other.status_code == 200
        while state.running:
            pass
        received = b""
        with contextlib.suppress(ConnectionError):
            while data := deaf.recv(1 << 20):
                received += data
        assert received.startswith(b"HTTP/1.1 200") and b"[DONE]" not in received
