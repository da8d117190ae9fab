"""tool_choice required and named: the answer is a call, whatever the model would rather say."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest
import tokenizers
from fakes.live_engine import EngineServer
from fakes.live_server import running
from fakes.llama import Llama
from fakes.tiny_tokenizer import BOS, byte_level_tokenizer

from nimlite.engine.grammar import GrammarCompiler
from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.kernels.cpu.library import Library
from nimlite.server.forced_calls import calls_grammar
from nimlite.server.tool_parsers.formats import TOOL_FORMATS
from nimlite.server.tool_parsers.parser import ToolParser
from nimlite.server.tool_parsers.scanner import CallArguments, CallBegin
from nimlite.server.tools import FunctionDefinition

CITY = {
    "type": "object",
    "properties": {
        "city": {"$ref": "#/$defs/city"},
        "unit": {"enum": ["celsius", "fahrenheit"]},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
    "$defs": {"city": {"type": "string", "maxLength": 12, "format": "city"}},
}
EMPTY = {"type": "object", "properties": {}, "additionalProperties": False}
SCHEMAS = {"get_weather": CITY, "get_time": EMPTY}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": schema}}
    for name, schema in SCHEMAS.items()
]
FUNCTIONS = [FunctionDefinition(name=name, parameters=schema) for name, schema in SCHEMAS.items()]


@pytest.fixture(scope="module")
def tokenizer() -> tokenizers.Tokenizer:
    return byte_level_tokenizer()


@pytest.fixture(scope="module")
def compiler(tokenizer: tokenizers.Tokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer, 320, [1])


@pytest.mark.parametrize("name", TOOL_FORMATS)
def test_what_is_enforced_is_what_the_parser_reads(
    name: str, compiler: GrammarCompiler, tokenizer: tokenizers.Tokenizer
) -> None:
    tool_format = TOOL_FORMATS[name]
    form = tool_format.form
    weather = {"city": "Köln", "unit": "celsius"}
    calls = [("get_weather", weather), ("get_time", {}), ("get_weather", weather)]
    texts = [
        json.dumps({"name": called, form.arguments: arguments}, ensure_ascii=False)
        for called, arguments in calls
    ]
    text = form.before + form.between.join(texts) + form.after
    matcher = compiler.matcher(calls_grammar(form, FUNCTIONS, {}, is_single=False))
    assert matcher.consume_tokens(tokenizer.encode(text, add_special_tokens=False).ids)
    assert matcher.is_accepting()
    parser = ToolParser(tool_format, SCHEMAS)
    events = [*parser.feed(text), *parser.finish()]
    assert [event.name for event in events if isinstance(event, CallBegin)] == [c[0] for c in calls]
    found = [json.loads(event.text) for event in events if isinstance(event, CallArguments)]
    assert found == [arguments for _, arguments in calls]
    assert len(events) == 2 * len(calls), "nothing is content"


def test_a_mark_that_is_a_special_token_is_written_as_one(
    compiler: GrammarCompiler, tokenizer: tokenizers.Tokenizer
) -> None:
    form = TOOL_FORMATS["mistral"].form
    grammar = calls_grammar(form, FUNCTIONS[1:], {"[TOOL_CALLS]": 0}, is_single=True)
    assert grammar.text.startswith('start: <[0]> "[" call "]"')
    text = BOS + '[{"name": "get_time", "arguments": {}}]'
    token_ids = tokenizer.encode(text, add_special_tokens=False).ids
    matcher = compiler.matcher(grammar)
    assert matcher.consume_tokens(token_ids) and matcher.is_accepting()


@pytest.fixture(scope="module")
def client(smollm2: Llama, library: Library) -> Iterator[openai.OpenAI]:
    engine = smollm2.engine(CpuKernels(library, num_threads=1), max_model_len=1024)
    with (
        running(EngineServer(engine, smollm2.tokenizer_directory)) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


def ask(client: openai.OpenAI, **fields: Any) -> Any:
    question = {"role": "user", "content": "How warm is it in Paris, in celsius?"}
    return client.chat.completions.create(
        model="tiny", messages=[question], tools=TOOLS, temperature=0, max_tokens=160, **fields
    )


def test_smollm2_calls_a_tool_when_it_must(client: openai.OpenAI) -> None:
    asked = {"tool_choice": "required", "parallel_tool_calls": False}
    [choice] = ask(client, **asked).choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    [call] = choice.message.tool_calls
    jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])

    deltas = [c.choices[0].delta.tool_calls or [] for c in ask(client, **asked, stream=True)]
    streamed = "".join(d.function.arguments for delta in deltas for d in delta)
    assert streamed == call.function.arguments


def test_smollm2_calls_the_tool_that_is_named(client: openai.OpenAI) -> None:
    choice = {"type": "function", "function": {"name": "get_weather"}}
    [call] = ask(client, tool_choice=choice).choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    arguments = json.loads(call.function.arguments)
    jsonschema.validate(arguments, CITY)
    assert "Paris" in arguments["city"]


def test_a_schema_that_can_not_be_followed(client: openai.OpenAI) -> None:
    impossible = {"type": "object", "properties": {"a": False}, "required": ["a"]}
    tools = [{"type": "function", "function": {"name": "f", "parameters": impossible}}]
    with pytest.raises(openai.BadRequestError, match="'tools' can't be followed") as raised:
        client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "hi"}],
            tools=tools,
            tool_choice="required",
        )
    assert raised.value.param == "tools"
