"""Calls of tools and thoughts, as the real client sees them."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from fakes.live_server import live_server
from fakes.tiny_model import EOS_ID, encode, make_config
from fakes.tool_model import ToolModel
from pydantic import BaseModel

from nimlite.engine.request import Request, Thoughts
from nimlite.server.state import ServerState

ASK = [{"role": "user", "content": "how warm is it in Köln?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather now.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
TIME = {"type": "function", "function": {"name": "get_time"}}
TWO_CALLS = (
    'Let me look.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Köln"}}\n'
    '</tool_call>\n<tool_call>\n{"name": "get_time"}\n</tool_call>'
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ToolModel, openai.OpenAI]]:
    model = ToolModel(tmp_path_factory.mktemp("tools"))
    state = ServerState(make_config())
    state.set_ready(model.served)
    with (
        live_server(state) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield model, client


@pytest.fixture
def model(served: tuple[ToolModel, openai.OpenAI]) -> ToolModel:
    served[0].engine.reset()
    return served[0]


@pytest.fixture
def client(served: tuple[ToolModel, openai.OpenAI]) -> openai.OpenAI:
    return served[1]


def create(client: openai.OpenAI, **fields: Any) -> Any:
    asked = {"model": "tiny", "messages": ASK, "tools": [WEATHER, TIME]}
    return client.chat.completions.create(**(asked | fields))


def test_calls_of_a_whole_answer(client: openai.OpenAI, model: ToolModel) -> None:
    model.says = TWO_CALLS
    [choice] = create(client).choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me look.\n"
    first, second = choice.message.tool_calls
    assert (first.type, first.function.name) == ("function", "get_weather")
    assert json.loads(first.function.arguments) == {"city": "Köln"}
    assert (second.function.name, second.function.arguments) == ("get_time", "{}")
    assert first.id.startswith("call_") and first.id != second.id
    assert '"name": "get_weather"' in model.prompt


def test_calls_of_a_stream(client: openai.OpenAI, model: ToolModel) -> None:
    model.says = TWO_CALLS
    chunks = list(create(client, stream=True))
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    deltas = [c for chunk in chunks for c in chunk.choices[0].delta.tool_calls or []]
    assert len([delta for delta in deltas if delta.index == 0]) > 5, "arguments come in pieces"
    assert [delta.id for delta in deltas if delta.id]
    with client.chat.completions.stream(
        model="tiny", messages=ASK, tools=[WEATHER, TIME]
    ) as stream:
        message = stream.get_final_completion().choices[0].message
    assert message.content == "Let me look.\n"
    assert message.tool_calls is not None
    assert [call.function.name for call in message.tool_calls] == ["get_weather", "get_time"]
    assert json.loads(message.tool_calls[0].function.arguments) == {"city": "Köln"}


class GetWeather(BaseModel):
    city: str


def test_the_clients_helpers_for_tools(client: openai.OpenAI, model: ToolModel) -> None:
    model.says = '<tool_call>{"name": "GetWeather", "arguments": {"city": "Köln"}}</tool_call>'
    tool = openai.pydantic_function_tool(GetWeather)
    answer = client.chat.completions.parse(model="tiny", messages=ASK, tools=[tool])
    [call] = answer.choices[0].message.tool_calls or []
    assert call.function.parsed_arguments == GetWeather(city="Köln")

    async def ask() -> str:
        async with openai.AsyncOpenAI(base_url=client.base_url, api_key="none") as other:
            stream = await other.chat.completions.create(
                model="tiny", messages=ASK, tools=[tool], stream=True
            )
            deltas = [chunk.choices[0].delta async for chunk in stream]
        calls = [call for delta in deltas for call in delta.tool_calls or []]
        return "".join(call.function.arguments or "" for call in calls if call.function)

    assert json.loads(asyncio.run(ask())) == {"city": "Köln"}


def test_only_calls_have_no_content(client: openai.OpenAI, model: ToolModel) -> None:
    model.says = TWO_CALLS.partition("\n")[2]
    message = create(client, parallel_tool_calls=False).choices[0].message
    assert message.content is None
    assert [call.function.name for call in message.tool_calls] == ["get_weather"]


def test_without_tools_nothing_is_taken_for_a_call(client: openai.OpenAI, model: ToolModel) -> None:
    model.says = TWO_CALLS
    for fields in ({"tools": []}, {"tool_choice": "none"}):
        [choice] = create(client, **fields).choices
        assert (choice.message.content, choice.message.tool_calls) == (TWO_CALLS, None)
        assert choice.finish_reason == "stop"
        assert "get_weather" not in model.prompt


def test_a_call_that_is_cut_off(client: openai.OpenAI, model: ToolModel) -> None:
    model.says = TWO_CALLS
    [choice] = create(client, max_tokens=60).choices
    assert choice.finish_reason == "length"
    [call] = choice.message.tool_calls
    assert '{"city": "Köln"}'.startswith(call.function.arguments)


def test_calls_and_results_go_back_into_the_template(
    client: openai.OpenAI, model: ToolModel
) -> None:
    model.says = TWO_CALLS
    answer = create(client).choices[0].message
    model.says = "It is warm."
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": "21 °C"} for call in answer.tool_calls
    ]
    again = create(client, messages=[*ASK, answer.model_dump(exclude_none=True), *results])
    assert again.choices[0].message.content == "It is warm."
    assert '<tool_call>{"name": "get_weather", "arguments": {"city": "Köln"}}' in model.prompt
    assert model.prompt.count("tool: 21 °C") == 2


def test_arguments_that_are_no_object_go_back_as_they_are(
    client: openai.OpenAI, model: ToolModel
) -> None:
    function = {"name": "get_time", "arguments": '{"cut'}
    call = {"id": "1", "type": "function", "function": function}
    create(client, messages=[*ASK, {"role": "assistant", "tool_calls": [call]}])
    assert r'"arguments": "{\"cut"' in model.prompt


@pytest.mark.parametrize("stream", [False, True])
def test_thoughts_are_told_apart(client: openai.OpenAI, model: ToolModel, stream: bool) -> None:
    model.says = "so much\n</think>\n\n" + TWO_CALLS
    thinking = {"chat_template_kwargs": {"enable_thinking": True}}
    answer = create(client, stream=stream, extra_body=thinking)
    if stream:
        deltas = [chunk.choices[0].delta for chunk in answer]
        thoughts = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
        content = "".join(delta.content or "" for delta in deltas)
    else:
        message = answer.choices[0].message
        thoughts, content = message.reasoning_content, message.content
        assert 3 <= answer.usage.completion_tokens_details.reasoning_tokens < 20
    assert (thoughts, content) == ("so much", "Let me look.\n")
    assert model.prompt.endswith("<think>\n")


def test_thoughts_come_before_a_call_that_is_required(
    client: openai.OpenAI, model: ToolModel
) -> None:
    model.says = (
        'so much</think>\n\n<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'
    )
    thinking = {"chat_template_kwargs": {"enable_thinking": True}}
    [choice] = create(client, tool_choice="required", extra_body=thinking).choices
    assert (choice.message.reasoning_content, choice.message.content) == ("so much", None)
    assert [call.function.name for call in choice.message.tool_calls] == ["get_time"]
    grammar = model.engine.requests[0].grammar
    assert grammar is not None and grammar.thoughts == Thoughts("<think>", "</think>", True)


def test_thoughts_may_be_left_out_or_not_asked_for(client: openai.OpenAI, model: ToolModel) -> None:
    model.says = "<think>\nso much\n</think>\nyes"
    message = create(client, extra_body={"include_reasoning": False}).choices[0].message
    assert message.content == "yes"
    assert not hasattr(message, "reasoning_content")
    create(client, reasoning_effort="none")
    assert not model.prompt.endswith("<think>\n")
    create(client, reasoning_effort="low")
    assert model.prompt.endswith("<think>\n")


def test_thoughts_are_ended_by_their_budget(client: openai.OpenAI, model: ToolModel) -> None:
    thoughts, rest = "this is hard " * 9, "It is warm."
    sayings = [thoughts, rest]

    def says(request: Request) -> list[int]:
        return [*encode(model.tokenizer, sayings[len(model.engine.requests) - 1]), EOS_ID]

    model.engine.reply = says
    asked = {"enable_thinking": True}
    extra = {"chat_template_kwargs": asked, "max_thinking_tokens": 10}
    answer = create(client, max_tokens=60, extra_body=extra)
    message = answer.choices[0].message
    assert thoughts.startswith(message.reasoning_content) and message.content == rest
    first, second = model.engine.requests
    assert first.params.max_tokens == 10
    written = second.prompt_token_ids[len(first.prompt_token_ids) :]
    text = model.tokenizer.token_bytes.decode(written, skip_special_tokens=False)
    assert text == message.reasoning_content + "\n</think>\n\n"
    assert second.params.max_tokens == 60 - len(written)
    assert answer.usage.prompt_tokens == len(first.prompt_token_ids)
    assert answer.usage.prompt_tokens_details.cached_tokens == 3
    num_rest = len(encode(model.tokenizer, rest)) + 1
    assert answer.usage.completion_tokens == len(written) + num_rest


def test_a_budget_that_is_not_used_up_changes_nothing(
    client: openai.OpenAI, model: ToolModel
) -> None:
    budget = {"thinking_token_budget": 24}
    said = encode(model.tokenizer, "<think>a</think>It is warm, and so it will be for days.")

    def goes_on(request: Request) -> list[int]:
        asked = model.engine.requests[0].prompt_token_ids
        return [*said[len(request.prompt_token_ids) - len(asked) :], EOS_ID]

    model.engine.reply = goes_on
    [choice] = create(client, extra_body=budget).choices
    assert choice.message.content == "It is warm, and so it will be for days."
    first, second = model.engine.requests
    written = second.prompt_token_ids[len(first.prompt_token_ids) :]
    assert written == said[:24]
    model.engine.reset()
    model.says = "ok"
    assert create(client, extra_body=budget).choices[0].message.content == "ok"
    [choice] = create(client, max_tokens=1, extra_body=budget).choices
    assert choice.finish_reason == "length"
    assert len(model.engine.requests) == 2


@pytest.mark.parametrize(
    ("fields", "param", "sentence"),
    [
        ({"tools": [], "tool_choice": "auto"}, "tool_choice", "'auto' needs 'tools'"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "g"}}},
            "tool_choice",
            "names the tool 'g', which is not among 'tools'",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "expected 'function'"),
        (
            {"tools": [{"type": "function", "function": {"name": "no name"}}]},
            "tools[0].function.name",
            "expected a string like",
        ),
        (
            {"tool_choice": "required", "response_format": {"type": "json_object"}},
            "tool_choice",
            "asks for a call and 'response_format' for another form",
        ),
        (
            {"messages": [{"role": "assistant", "content": None}]},
            "messages[0].content",
            "Missing required parameter",
        ),
    ],
)
def test_mistakes(
    client: openai.OpenAI, model: ToolModel, fields: dict[str, Any], param: str, sentence: str
) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        create(client, **fields)
    assert raised.value.param == param
    assert sentence in str(raised.value)
