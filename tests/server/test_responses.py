"""Responses as the real client sees them."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from fakes.live_server import LiveServer, live_server
from fakes.tiny_model import make_config
from fakes.tool_model import ToolModel
from pydantic import BaseModel

from nimlite.server.state import ServerState

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather now.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
CALL = 'Let me look.<tool_call>{"name": "get_weather", "arguments": {"city": "Köln"}}</tool_call>'
Served = tuple[ToolModel, openai.OpenAI, LiveServer]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    model = ToolModel(tmp_path_factory.mktemp("responses"))
    state = ServerState(make_config(max_stored_responses=4))
    state.set_ready(model.served)
    with (
        live_server(state) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield model, client, server


@pytest.fixture
def model(served: Served) -> Iterator[ToolModel]:
    served[0].engine.reset()
    yield served[0]
    served[0].engine.release()


@pytest.fixture
def client(served: Served) -> openai.OpenAI:
    return served[1]


def create(client: openai.OpenAI, **fields: Any) -> Any:
    return client.responses.create(**({"model": "tiny", "input": "how warm is it?"} | fields))


def test_a_whole_response(client: openai.OpenAI, model: ToolModel) -> None:
    model.says = "It is warm."
    response = create(
        client,
        instructions="Be brief.",
        temperature=0.5,
        max_output_tokens=50,
        metadata={"a": "b"},
    )
    assert (response.status, response.output_text) == ("completed", "It is warm.")
    [item] = response.output
    assert (item.type, item.role, item.status) == ("message", "assistant", "completed")
    assert (response.model, response.metadata, response.error) == ("tiny", {"a": "b"}, None)
    [request] = model.engine.requests
    assert (request.params.max_tokens, request.params.temperature) == (50, 0.5)
    usage = response.usage
    assert usage.input_tokens == len(request.prompt_token_ids)
    assert usage.input_tokens_details.cached_tokens == 3
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert model.prompt.startswith("system: Be brief.user: how warm is it?")


def test_the_events_add_up_to_the_same(client: openai.OpenAI, model: ToolModel) -> None:
    model.says = f"<think>\nhm\n</think>\n\n{CALL}"
    whole = create(client, tools=[WEATHER])
    with client.responses.stream(model="tiny", input="how warm is it?", tools=[WEATHER]) as stream:
        events = list(stream)
        streamed = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:3] == ["response.created", "response.in_progress", "response.output_item.added"]
    assert kinds[-1] == "response.completed"
    thoughts, text, call = streamed.output
    assert thoughts.content[0].text == "hm"
    assert text.content[0].text == "Let me look."
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Köln"})
    assert [item.type for item in whole.output] == [item.type for item in streamed.output]
    assert whole.output[1].content[0].text == text.content[0].text
    assert whole.output[2].arguments == call.arguments
    assert streamed.usage.output_tokens_details.reasoning_tokens > 1


class Weather(BaseModel):
    city: str


def test_the_clients_parse_helper(client: openai.OpenAI, model: ToolModel) -> None:
    model.says = '{"city": "Köln"}'
    response = client.responses.parse(model="tiny", input="where?", text_format=Weather)
    assert response.output_parsed == Weather(city="Köln")


def test_a_conversation_by_ids(client: openai.OpenAI, model: ToolModel) -> None:
    model.says = f"<think>hm</think>{CALL}"
    first = create(client, tools=[WEATHER], instructions="Be brief.")
    result = {"type": "function_call_output", "call_id": first.output[2].call_id, "output": "21 °C"}
    model.says = "It is warm."
    second = create(client, previous_response_id=first.id, input=[result], tools=[WEATHER])
    assert (
        "user: how warm is it?assistant: Let me look."
        '<tool_call>{"name": "get_weather", "arguments": {"city": "Köln"}}</tool_call>tool: 21 °C'
    ) in model.prompt
    assert "Be brief." not in model.prompt
    create(client, previous_response_id=second.id, input="and now?")
    assert model.prompt.endswith("tool: 21 °Cassistant: It is warm.user: and now?assistant: ")
    found = client.responses.retrieve(second.id)
    assert found.output_text == "It is warm." and found.previous_response_id == first.id
    [item] = client.responses.input_items.list(second.id).data
    assert (item.type, item.output) == ("function_call_output", "21 °C")


def test_items_as_input(client: openai.OpenAI, model: ToolModel) -> None:
    call = {"type": "function_call", "call_id": "1", "name": "get_weather", "arguments": "{}"}
    create(
        client,
        store=False,
        input=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
            {"type": "reasoning", "id": "rs_1", "summary": []},
            call,
            call | {"call_id": "2"},
            {"type": "function_call_output", "call_id": "1", "output": "a"},
            {"type": "function_call_output", "call_id": "2", "output": "b"},
            {"role": "assistant", "content": "c"},
            {"role": "assistant", "content": "d"},
            {"role": "user", "content": "e"},
        ],
    )
    called = '<tool_call>{"name": "get_weather", "arguments": {}}</tool_call>'
    assert model.prompt == (
        f"system: Be brief.user: hiassistant: {called}{called}tool: atool: b"
        "assistant: cassistant: duser: eassistant: "
    )


def test_only_so_many_are_kept(client: openai.OpenAI, model: ToolModel) -> None:
    model.says = "yes"
    kept = [create(client).id for _ in range(5)]
    unkept = create(client, store=False).id
    for response_id in (kept[0], unkept):
        with pytest.raises(openai.NotFoundError, match="The latest 4 are kept"):
            client.responses.retrieve(response_id)
    with pytest.raises(openai.BadRequestError) as raised:
        create(client, previous_response_id=kept[0])
    assert raised.value.code == "previous_response_not_found"
    client.responses.delete(kept[4])
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(kept[4])
    assert client.responses.retrieve(kept[3]).output_text == "yes"


def test_a_response_that_is_cut_off(client: openai.OpenAI, model: ToolModel) -> None:
    model.says = "It is warm."
    response = create(client, max_output_tokens=3)
    assert response.status == response.output[0].status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    events = list(create(client, max_output_tokens=3, stream=True))
    assert events[-1].type == "response.incomplete"


def test_in_the_background(client: openai.OpenAI, model: ToolModel) -> None:
    model.says = "It is warm."
    model.engine.hold(after_steps=2)
    begun = create(client, background=True)
    assert (begun.status, begun.output) == ("in_progress", [])
    assert model.engine.on_held.wait(30)
    assert client.responses.retrieve(begun.id).status == "in_progress"
    with pytest.raises(openai.BadRequestError, match="is still under way"):
        create(client, previous_response_id=begun.id)
    cancelled = client.responses.cancel(begun.id)
    assert cancelled.status == client.responses.retrieve(begun.id).status == "cancelled"
    assert model.engine.aborted == {model.engine.requests[0].id}


def test_the_background_ends_by_itself(client: openai.OpenAI, model: ToolModel) -> None:
    model.says = "It is warm."
    begun = create(client, background=True)
    for _ in range(1000):
        found = client.responses.retrieve(begun.id)
        if found.status != "in_progress":
            break
    assert (found.status, found.output_text) == ("completed", "It is warm.")
    assert client.responses.cancel(begun.id).status == "completed"
    model.engine.failure = "The engine could not go on."
    failed = create(client, background=True)
    for _ in range(1000):
        found = client.responses.retrieve(failed.id)
        if found.status != "in_progress":
            break
    assert found.status == "failed"
    assert found.error is not None and found.error.message == "The engine could not go on."


def test_a_stream_that_breaks_off(client: openai.OpenAI, model: ToolModel) -> None:
    model.says = "It is warm."
    model.engine.failure = "The engine could not go on."
    events = list(create(client, stream=True))
    assert events[-1].type == "response.failed"
    assert "could not go on" in events[-1].response.error.message
    kept = client.responses.retrieve(events[-1].response.id)
    assert kept.status == "failed"
    model.engine.failure = None
    again = create(client, previous_response_id=kept.id)
    assert again.output_text == "It is warm."


def test_the_tool_that_must_be_called(client: openai.OpenAI, model: ToolModel) -> None:
    model.says = '<tool_call>{"name": "get_weather", "arguments": {}}</tool_call>'
    choice = {"type": "function", "name": "get_weather"}
    [call] = create(client, tools=[WEATHER], tool_choice=choice).output
    assert call.name == "get_weather"
    assert model.engine.requests[0].grammar is not None
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    text = {"format": {"type": "json_schema", "name": "s", "schema": schema}}
    response = create(client, text=text)
    assert response.text.format.type == "json_schema"
    grammar = model.engine.requests[1].grammar
    assert grammar is not None and json.loads(grammar.text) == schema


@pytest.mark.parametrize(
    ("fields", "param", "sentence"),
    [
        ({"input": [{"role": "robot", "content": ""}]}, "input[0].role", "expected 'user'"),
        ({"input": [{"type": "x"}]}, "input[0].type", "expected 'message', 'function_call'"),
        ({"input": []}, "input", "at least 1 item"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "expected 'function'"),
        ({"tool_choice": "required"}, "tool_choice", "needs 'tools'"),
        ({"conversation": "c"}, "conversation", "is not supported"),
        ({"truncation": "auto"}, "truncation", "is not supported"),
        ({"background": True, "stream": True}, "stream", "can't be streamed here"),
        ({"background": True, "store": False}, "store", "must be stored"),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "function", "name": "g"}},
            "tool_choice",
            "which is not among 'tools'",
        ),
    ],
)
def test_mistakes(
    client: openai.OpenAI, model: ToolModel, fields: dict[str, Any], param: str, sentence: str
) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        create(client, **fields)
    assert sentence in str(raised.value)
    assert raised.value.param == param


def test_schemas_that_are_hard_to_encode(client: openai.OpenAI, model: ToolModel) -> None:
    model.says = "yes"
    schema = {"type": "object", "properties": {"a": {"type": "integer", "maximum": 10**30}}}
    response = create(client, tools=[WEATHER | {"parameters": schema}], tool_choice="auto")
    kept = client.responses.retrieve(response.id)
    assert kept.tools[0].parameters == schema
    assert create(client, tool_choice="auto").output_text == "yes"


def test_only_the_background_can_be_cancelled(client: openai.OpenAI, model: ToolModel) -> None:
    model.says = "yes"
    with pytest.raises(openai.BadRequestError, match="Only a response with 'background': true"):
        client.responses.cancel(create(client).id)
