"""Anthropic's messages as its real client sees them."""

from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest
from fakes.live_server import live_server
from fakes.tiny_model import make_config
from fakes.tool_model import ToolModel

from nimlite.server.state import ServerState

ASK = [{"role": "user", "content": "how warm is it in Köln?"}]
WEATHER = {
    "name": "get_weather",
    "description": "The weather now.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALL = 'Let me look.<tool_call>{"name": "get_weather", "arguments": {"city": "Köln"}}</tool_call>'
Served = tuple[ToolModel, anthropic.Anthropic]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    model = ToolModel(tmp_path_factory.mktemp("messages"))
    state = ServerState(make_config())
    state.set_ready(model.served)
    with (
        live_server(state) as server,
        anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client,
    ):
        yield model, client


@pytest.fixture
def model(served: Served) -> ToolModel:
    served[0].engine.reset()
    return served[0]


@pytest.fixture
def client(served: Served) -> anthropic.Anthropic:
    return served[1]


def create(client: anthropic.Anthropic, **fields: Any) -> Any:
    asked = {"model": "tiny", "max_tokens": 400, "messages": ASK}
    return client.messages.create(**(asked | fields))


def test_a_whole_message(client: anthropic.Anthropic, model: ToolModel) -> None:
    model.says = "It is warm."
    message = create(
        client, system=[{"type": "text", "text": "Be brief."}], extra_body={"temperature": 0.5}
    )
    [block] = message.content
    assert (block.type, block.text) == ("text", "It is warm.")
    assert (message.role, message.model) == ("assistant", "tiny")
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    [request] = model.engine.requests
    assert (request.params.max_tokens, request.params.temperature) == (400, 0.5)
    usage = message.usage
    num_prompt = len(request.prompt_token_ids)
    assert usage.cache_read_input_tokens == 3
    assert usage.input_tokens + usage.cache_read_input_tokens == num_prompt
    assert usage.output_tokens > 5
    assert model.prompt.startswith("system: Be brief.")


def test_a_stream_adds_up_to_the_same(client: anthropic.Anthropic, model: ToolModel) -> None:
    model.says = f"<think>\nhm\n</think>\n\n{CALL}"
    whole = create(client, tools=[WEATHER])
    with client.messages.stream(
        model="tiny", max_tokens=400, messages=ASK, tools=[WEATHER]
    ) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_message()
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
    thoughts, text, call = streamed.content
    assert (thoughts.type, thoughts.thinking) == ("thinking", "hm")
    assert (text.type, text.text) == ("text", "Let me look.")
    assert (call.type, call.name, call.input) == ("tool_use", "get_weather", {"city": "Köln"})
    assert streamed.stop_reason == whole.stop_reason == "tool_use"
    for message in (whole, streamed):
        message.id = message.content[2].id = ""
    assert streamed.model_dump() == whole.model_dump()


@pytest.mark.parametrize("stream", [False, True])
def test_why_it_ended(client: anthropic.Anthropic, model: ToolModel, stream: bool) -> None:
    model.says = "one two three"

    def ended(**fields: Any) -> tuple[str, str, str]:
        if not stream:
            message = create(client, **fields)
        else:
            asked = {"model": "tiny", "max_tokens": 400, "messages": ASK}
            with client.messages.stream(**(asked | fields)) as events:
                message = events.get_final_message()
        return message.content[0].text, message.stop_reason, message.stop_sequence

    assert ended(stop_sequences=["x", " three"]) == ("one two", "stop_sequence", " three")
    assert ended(max_tokens=1)[1:] == ("max_tokens", None)
    model.says = ""
    assert ended() == ("", "end_turn", None)


def test_a_limit_beyond_the_context(client: anthropic.Anthropic, model: ToolModel) -> None:
    model.says = "one " * 4096
    with client.messages.stream(model="tiny", max_tokens=128_000, messages=ASK) as stream:
        message = stream.get_final_message()
    assert message.stop_reason == "model_context_window_exceeded"
    [request] = model.engine.requests
    assert request.params.max_tokens == 4096 - len(request.prompt_token_ids)


def test_calls_and_results_go_back(client: anthropic.Anthropic, model: ToolModel) -> None:
    model.says = f"<think>hm</think>{CALL}"
    message = create(client, tools=[WEATHER], tool_choice={"type": "auto"})
    result = {"type": "tool_result", "tool_use_id": message.content[2].id}
    results = [
        result | {"content": "21 °C"},
        result | {"content": [{"type": "text", "text": "dry"}], "is_error": False},
        {"type": "text", "text": "and now?", "cache_control": {"type": "ephemeral"}},
    ]
    model.says = "It is warm."
    create(
        client,
        tools=[WEATHER],
        messages=[
            *ASK,
            {"role": "assistant", "content": message.content},
            {"role": "user", "content": results},
        ],
    )
    assert (
        'assistant: Let me look.<tool_call>{"name": "get_weather", "arguments": {"city": "Köln"}}'
        "</tool_call>tool: 21 °Ctool: dryuser: and now?"
    ) in model.prompt


def test_an_answer_goes_on_with_the_last_message(
    client: anthropic.Anthropic, model: ToolModel
) -> None:
    model.says = " 21 °C."
    begun = {"role": "assistant", "content": "It is"}
    message = create(client, messages=[*ASK, begun])
    assert message.content[0].text == " 21 °C."
    assert model.prompt.endswith("assistant: It is")


def test_thinking_is_switched(client: anthropic.Anthropic, model: ToolModel) -> None:
    model.says = "hm</think>yes"
    message = create(client, thinking={"type": "enabled", "budget_tokens": 1024})
    assert [block.type for block in message.content] == ["thinking", "text"]
    model.says = "yes"
    create(client, thinking={"type": "disabled"})
    assert not model.prompt.endswith("<think>\n")


def test_arguments_that_are_hard_to_encode(client: anthropic.Anthropic, model: ToolModel) -> None:
    arguments = '{"a": 1%s, "b": "\\ud800"}' % ("0" * 40)
    model.says = f'<tool_call>{{"name": "get_weather", "arguments": {arguments}}}</tool_call>'
    [call] = create(client, tools=[WEATHER]).content
    assert call.input == {"a": 10**40, "b": "\ud800"}


def test_tokens_are_counted_without_inference(
    client: anthropic.Anthropic, model: ToolModel
) -> None:
    model.says = "yes"
    counted = client.messages.count_tokens(model="tiny", messages=ASK, tools=[WEATHER])
    assert model.engine.requests == []
    create(client, tools=[WEATHER])
    assert counted.input_tokens == len(model.engine.requests[0].prompt_token_ids)


@pytest.mark.parametrize(
    ("fields", "error", "sentence"),
    [
        ({"model": "x"}, anthropic.NotFoundError, "The model 'x' does not exist"),
        ({"extra_body": {"temperature": 1.5}}, anthropic.BadRequestError, "at most 1.0, got 1.5"),
        ({"messages": []}, anthropic.BadRequestError, "at least 1 item"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
            anthropic.BadRequestError,
            "'messages[0].content[0].type': expected 'text', 'tool_result', got the string 'image'",
        ),
        (
            {"messages": [{"role": "assistant", "content": ""}]},
            anthropic.BadRequestError,
            "no content here that an answer could go on with",
        ),
        (
            {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
            anthropic.BadRequestError,
            "expected 'custom'",
        ),
        (
            {"tool_choice": {"type": "any"}},
            anthropic.BadRequestError,
            "'required' needs 'tools'",
        ),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "tool"}},
            anthropic.BadRequestError,
            "'tool_choice.name' is needed",
        ),
        (
            {"messages": [{"role": "user", "content": "a b " * 3000}]},
            anthropic.BadRequestError,
            "maximum context length is 4096",
        ),
    ],
)
def test_mistakes(
    client: anthropic.Anthropic,
    model: ToolModel,
    fields: dict[str, Any],
    error: type[anthropic.APIStatusError],
    sentence: str,
) -> None:
    with pytest.raises(error) as raised:
        create(client, **fields)
    assert sentence in str(raised.value)
    body = raised.value.body
    assert isinstance(body, dict)
    assert body["type"] == "error" and set(body["error"]) == {"type", "message"}


def test_a_stream_that_breaks_off(client: anthropic.Anthropic, model: ToolModel) -> None:
    model.says = "one two three"
    model.engine.failure = "The engine could not go on."
    with pytest.raises(anthropic.APIStatusError, match="could not go on"):
        list(create(client, stream=True))


def test_answers_carry_the_id_of_their_request(
    client: anthropic.Anthropic, model: ToolModel
) -> None:
    model.says = "yes"
    assert len(create(client)._request_id) == 32
    url = f"{str(client.base_url).rstrip('/')}/v1/models"
    assert httpx.get(url, headers={"x-request-id": "mine"}).headers["x-request-id"] == "mine"
    assert len(httpx.get(url, headers={"x-request-id": "a b"}).headers["x-request-id"]) == 32
