"""Every body and every event is valid under the types that the clients' makers publish."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic.types
import httpx
import openai.types.chat
import openai.types.responses
import pytest
from fakes.live_server import live_server
from fakes.tiny_model import make_config
from fakes.tool_model import ToolModel
from pydantic import TypeAdapter

from nimlite.server.state import ServerState

SAYS = '<think>hm</think>Let me look.<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
FUNCTION = {"name": "f", "description": "A function.", "parameters": SCHEMA}
CASES = {
    "chat": (
        "/v1/chat/completions",
        {
            "messages": [{"role": "user", "content": "hi"}],
            "tools": [{"type": "function", "function": FUNCTION}],
            "logprobs": True,
            "top_logprobs": 2,
        },
        openai.types.chat.ChatCompletion,
        openai.types.chat.ChatCompletionChunk,
    ),
    "completions": (
        "/v1/completions",
        {"prompt": "hi", "logprobs": 2, "max_tokens": 40},
        openai.types.Completion,
        openai.types.Completion,
    ),
    "responses": (
        "/v1/responses",
        {"input": "hi", "tools": [{"type": "function", "strict": True} | FUNCTION]},
        openai.types.responses.Response,
        openai.types.responses.ResponseStreamEvent,
    ),
    "messages": (
        "/v1/messages",
        {
            "messages": [{"role": "user", "content": "hi"}],
            "tools": [{"name": "f", "input_schema": SCHEMA}],
            "max_tokens": 400,
        },
        anthropic.types.Message,
        anthropic.types.RawMessageStreamEvent,
    ),
}


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    model = ToolModel(tmp_path_factory.mktemp("types"))
    model.says = SAYS
    state = ServerState(make_config())
    state.set_ready(model.served)
    with live_server(state) as server, httpx.Client(base_url=server.url) as client:
        yield client


@pytest.mark.parametrize("name", CASES)
def test_whole_bodies(http: httpx.Client, name: str) -> None:
    path, body, whole_type, _ = CASES[name]
    answer = http.post(path, json={"model": "tiny"} | body)
    assert answer.status_code == 200, answer.text
    TypeAdapter(whole_type).validate_json(answer.content)


@pytest.mark.parametrize("name", CASES)
def test_events(http: httpx.Client, name: str) -> None:
    path, body, _, event_type = CASES[name]
    answer = http.post(path, json={"model": "tiny", "stream": True} | body)
    adapter: TypeAdapter[Any] = TypeAdapter(event_type)
    events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    events = [event for event in events if event != "[DONE]"]
    assert len(events) > 5
    for event in events:
        if name == "completions":  # whose type is that of whole answers
            event = event.replace('"finish_reason":null', '"finish_reason":"stop"')
        adapter.validate_json(event)
    named = [line[7:] for line in answer.text.splitlines() if line.startswith("event: ")]
    assert not named or named == [json.loads(event)["type"] for event in events]


def test_models(http: httpx.Client) -> None:
    listed = http.get("/v1/models").json()
    found = [openai.types.Model.model_validate(card) for card in listed["data"]]
    assert [card.id for card in found] == ["tiny", "org/tiny"]
