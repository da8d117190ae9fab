"""A stream adds up to the whole answer: random texts, tools, thoughts, stop strings, chunks."""

import json
import random
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fakes.live_server import live_server
from fakes.tiny_model import make_config
from fakes.tool_model import ToolModel

from nimlite.server.state import ServerState

NUM_REQUESTS = 500
PIECES = (
    *("Hello ", "😀", "👩‍👩‍👧", "日本語テスト", "Grüße", "\n\n", " ", "<", "stop", "st", "x" * 30),
    *("<think>", "</think>", "<tool_call>", "</tool_call>", '{"name": "f"', "\u2028", "\x85"),
    *3 * ('<tool_call>{"name": "f", "arguments": {"größe": "日本 😀 \\" }"}}</tool_call>',),
    *3 * ('<tool_call>\n{"arguments": {"a": [1, {}]}, "name": "g"}\n</tool_call>',),
)
TOOLS = [{"type": "function", "function": {"name": "f"}}]
Found = dict[str, Any]


def random_request(chance: random.Random) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "😀 hi"}],
        "n": chance.choice([1, 1, 1, 2]),
        "max_tokens": chance.choice([1, 3, 20, 400]),
        "chat_template_kwargs": {"enable_thinking": chance.random() < 0.3},
    }
    if chance.random() < 0.6:
        body["tools"] = TOOLS
    if chance.random() < 0.4:
        body["stop"] = chance.sample(["stop", "本語", "😀", "}</", "\n\n"], 2)
        body["include_stop_str_in_output"] = chance.random() < 0.3
    if chance.random() < 0.2:
        body["max_thinking_tokens"] = 5
    return body


def of_whole(answer: dict[str, Any]) -> tuple[list[Found], Any]:
    found = []
    for choice in answer["choices"]:
        message = choice["message"]
        calls = [call["function"] for call in message.get("tool_calls", [])]
        found.append(
            {
                "content": message["content"] or "",
                "thoughts": message.get("reasoning_content", ""),
                "calls": [(call["name"], call["arguments"]) for call in calls],
                "reason": choice["finish_reason"],
            }
        )
    return found, answer["usage"]


def of_stream(text: str, n: int) -> tuple[list[Found], Any]:
    empty: Found = {"content": "", "thoughts": "", "calls": [], "reason": None}
    found = [empty | {"calls": []} for _ in range(n)]
    usage = None
    lines = text.splitlines()
    assert lines[-2:] == ["data: [DONE]", ""]
    for line in lines[:-2]:
        if not line:
            continue
        chunk = json.loads(line.removeprefix("data: "))
        usage = chunk["usage"] or usage
        for choice in chunk["choices"]:
            of_choice, delta = found[choice["index"]], choice["delta"]
            of_choice["content"] += delta.get("content") or ""
            of_choice["thoughts"] += delta.get("reasoning_content", "")
            of_choice["reason"] = choice["finish_reason"] or of_choice["reason"]
            for call in delta.get("tool_calls", []):
                add_call(of_choice["calls"], call)
    return found, usage


def add_call(calls: list[tuple[str, str]], delta: dict[str, Any]) -> None:
    function = delta["function"]
    if "name" in function:
        assert delta["index"] == len(calls)
        calls.append((function["name"], function["arguments"]))
    else:
        name, arguments = calls[delta["index"]]
        calls[delta["index"]] = (name, arguments + function["arguments"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ToolModel:
    return ToolModel(tmp_path_factory.mktemp("equality"))


@pytest.fixture(scope="module")
def http(model: ToolModel) -> Iterator[httpx.Client]:
    state = ServerState(make_config())
    state.set_ready(model.served)
    with live_server(state) as server, httpx.Client(base_url=server.url) as client:
        yield client


def test_streams_add_up_to_the_whole(http: httpx.Client, model: ToolModel) -> None:
    chance = random.Random(8)
    num_calls = num_thoughts = num_stopped = 0
    for _ in range(NUM_REQUESTS):
        body = random_request(chance)
        model.says = "".join(chance.choices(PIECES, k=chance.randint(0, 8)))
        model.engine.batch_size = 1
        whole = http.post("/v1/chat/completions", json=body)
        assert whole.status_code == 200, whole.text
        model.engine.batch_size = chance.choice([1, 2, 5])
        streaming = {"stream": True, "stream_options": {"include_usage": True}}
        stream = http.post("/v1/chat/completions", json=body | streaming)
        found, usage = of_whole(whole.json())
        assert of_stream(stream.content.decode(), body["n"])[0] == found, model.says
        if "stop" not in body:
            assert of_stream(stream.content.decode(), body["n"])[1] == usage
        num_calls += len(found[0]["calls"])
        num_thoughts += bool(found[0]["thoughts"])
        num_stopped += "stop" in body and found[0]["reason"] == "stop"
    assert min(num_calls, num_thoughts, num_stopped) > 50
