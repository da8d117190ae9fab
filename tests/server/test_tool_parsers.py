"""Tool parsers: every format, whole and in any chunks, and text that only looks like a call."""

import json
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nimlite.server.tool_parsers.formats import TOOL_FORMATS, ToolFormat, detect
from nimlite.server.tool_parsers.parser import ToolParser
from nimlite.server.tool_parsers.scanner import CallArguments, CallBegin, Event
from nimlite.settings.values import ToolCallParser

EXAMPLES = settings(max_examples=25, deadline=None)
TYPES = {"a": {"type": ["object", "integer"]}, "city": {"type": "string"}}
SCHEMAS = {name: {"properties": TYPES} for name in ("f", "get_weather", "files.read")}
Call = tuple[str, dict[str, object]]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
identifiers = st.sampled_from(["a", "city", "_x1", "größe"])
arguments = st.dictionaries(identifiers, json_values, max_size=3)
calls = st.lists(st.tuples(st.sampled_from(sorted(SCHEMAS)), arguments), min_size=1, max_size=3)


def as_json(call: Call, key: str = "arguments") -> str:
    return json.dumps({"name": call[0], key: call[1]}, ensure_ascii=False)


def as_python(call: Call) -> str:
    return f"{call[0]}({', '.join(f'{key}={value!r}' for key, value in call[1].items())})"


def as_json_in_tags(call: Call) -> str:
    return f"<tool_call>\n{as_json(call)}\n</tool_call>"


WRITERS: dict[str, Callable[[Sequence[Call]], str]] = {
    "hermes": lambda calls: "\n".join(
        f"<tool_call>\n{as_json(call)}\n</tool_call>" for call in calls
    ),
    "llama3_json": lambda calls: "; ".join(as_json(call, "parameters") for call in calls),
    "pythonic": lambda calls: f"[{', '.join(map(as_python, calls))}]",
    "mistral": lambda calls: f"[TOOL_CALLS] [{', '.join(map(as_json, calls))}]",
    "granite": lambda calls: f"<|tool_call|>[{', '.join(map(as_json, calls))}]",
    "granite-20b-fc": lambda calls: " ".join(f"<function_call> {as_json(call)}" for call in calls),
    "phi4_mini_json": lambda calls: f"functools[{', '.join(map(as_json, calls))}]",
    "nemotron": lambda calls: f"<TOOLCALL>[{', '.join(map(as_json, calls))}]</TOOLCALL>",
    "qwen3_coder": lambda calls: "\n".join(map(as_json_in_tags, calls)),
    "jamba": lambda calls: f"<tool_calls>[\n{', '.join(map(as_json, calls))}\n]</tool_calls>",
}
FRAGMENTS = (
    *("{", "}", "[", "]", "(", ")", '"', "'", ",", ";", ":", "=", "\\", " ", "\n", "name", "f"),
    *('{"name": "f", "arguments": {"a": 1}}', '"arguments"', "[f(a=1)", "🙂", "日本", "\\ud83d"),
)


def texts_near_calls(tool_format: ToolFormat) -> st.SearchStrategy[str]:
    marks = (*tool_format.openers, *tool_format.closers)
    halves = tuple(mark[: len(mark) // 2] for mark in marks)
    return st.lists(st.sampled_from(FRAGMENTS + marks + halves), max_size=24).map("".join)


def cut(text: str, data: st.DataObject) -> list[str]:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8), label="cuts"))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def read(tool_format: ToolFormat, chunks: Sequence[str]) -> tuple[str, list[tuple[str, str]]]:
    """Content, and calls as (name, arguments)."""
    parser = ToolParser(tool_format, SCHEMAS)
    events: list[Event] = [event for chunk in chunks for event in parser.feed(chunk)]
    events += parser.finish()
    content, found = "", []
    for event in events:
        match event:
            case CallBegin(name):
                found.append((name, ""))
            case CallArguments(text):
                found[-1] = (found[-1][0], found[-1][1] + text)
            case str():
                content += event
    return content, found


@pytest.mark.parametrize("name", TOOL_FORMATS)
@EXAMPLES
@given(data=st.data(), called=calls)
def test_calls_are_found_in_any_chunks(name: str, data: st.DataObject, called: list[Call]) -> None:
    content, found = read(TOOL_FORMATS[name], cut(WRITERS[name](called), data))
    assert content == ""
    assert [(called_name, json.loads(text)) for called_name, text in found] == called


@pytest.mark.parametrize("name", TOOL_FORMATS)
@EXAMPLES
@given(data=st.data())
def test_chunks_change_nothing(name: str, data: st.DataObject) -> None:
    tool_format = TOOL_FORMATS[name]
    text = data.draw(texts_near_calls(tool_format), label="text")
    assert read(tool_format, cut(text, data)) == read(tool_format, [text])


@pytest.mark.parametrize("name", TOOL_FORMATS)
@EXAMPLES
@given(data=st.data())
def test_text_without_calls_is_kept_whole(name: str, data: st.DataObject) -> None:
    tool_format = TOOL_FORMATS[name]
    text = data.draw(st.text() | texts_near_calls(tool_format), label="text")
    content, found = read(tool_format, [text])
    if not found:
        assert content == text
    # What is content is in the text, in its order.
    rest = iter(text)
    assert all(character in rest for character in content)


@pytest.mark.parametrize("name", TOOL_FORMATS)
@EXAMPLES
@given(called=calls, words=st.text(alphabet="ab <é", max_size=9))
def test_words_around_calls_are_content(name: str, called: list[Call], words: str) -> None:
    tool_format = TOOL_FORMATS[name]
    before = "" if tool_format.is_bare else f"x{words}"
    content, found = read(tool_format, [f"{before}{WRITERS[name](called)}\n{words}!"])
    assert len(found) == len(called)
    assert content == f"{before}\n{words}!"


HERMES, LLAMA = TOOL_FORMATS["hermes"], TOOL_FORMATS["llama3_json"]
CODER = TOOL_FORMATS["qwen3_coder"]
MISTRAL, PYTHONIC = TOOL_FORMATS["mistral"], TOOL_FORMATS["pythonic"]
VALUES = (
    '<parameter=a>\n{"b": [1]}\n</parameter>\n<parameter=city>\n1\n2 <b>\n</parameter>\n'
    "<parameter=a>True</parameter><parameter=other>7</parameter>\n"
)
CODED = r"""{"a": {"b": [1]}, "city": "1\n2 <b>", "a": true, "other": "7"}"""
ESCAPED = r"""{"a": "'", "b": "\\dA"}"""
A_PAIR = '{"a": [1, 2.5], "b": {"1": null}}'


@pytest.mark.parametrize(
    ("tool_format", "text", "content", "found"),
    [
        (HERMES, '<tool_call>{"arguments": {"a": 1}, "name": "g"}', "", [("g", '{"a": 1}')]),
        (HERMES, '<tool_call>{"name": "f"}</tool_call>\n', "", [("f", "{}")]),
        (HERMES, '<tool_call>{"name": "f", "arguments": null}', "", [("f", "{}")]),
        (HERMES, '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}', "", [("f", '{"a": 1}')]),
        (HERMES, '<tool_call>{"name": "f", "arguments": 3}', None, []),
        (HERMES, '<tool_call>{"name": "no name!"}</tool_call>', None, []),
        (HERMES, '<tool_call><tool_call>{"name": "f"}', "<tool_call>", [("f", "{}")]),
        (HERMES, '<tool_call>{"name": "f", "arguments": {"a": [1', "", [("f", '{"a": [1')]),
        (HERMES, '<tool_call>{"name": "f", "arguments": {"a": 1]}', "]}", [("f", '{"a": 1')]),
        (HERMES, '<tool_call>{"name": "f", "argum', None, []),
        (HERMES, "<tool_call>" + '{"a": "' + "x" * 20000, None, []),
        (HERMES, '{"name": "f", "arguments": {}}', None, []),
        (LLAMA, '{"name": "unknown", "parameters": {}}', None, []),
        (LLAMA, '<|python_tag|>{"name": "unknown", "parameters": {}}', "", [("unknown", "{}")]),
        (LLAMA, ' {"type": "function", "name": "f", "parameters": {}}', "", [("f", "{}")]),
        (LLAMA, 'So: {"name": "f", "parameters": {}}', None, []),
        (LLAMA, '<|python_tag|>print("hi")', None, []),
        (MISTRAL, '[TOOL_CALLS]f{"a": 1}[TOOL_CALLS]g{}', "", [("f", '{"a": 1}'), ("g", "{}")]),
        (MISTRAL, '[TOOL_CALLS]f[CALL_ID]aB3[ARGS]{"a": 1}', "", [("f", '{"a": 1}')]),
        (MISTRAL, "[TOOL_CALLS]f[OTHER]{}", None, []),
        (PYTHONIC, r"[f(a='\'', b='\d\x41')]", "", [("f", ESCAPED)]),
        (PYTHONIC, "[f(a=(1, 2.5,), b={1: None})]", "", [("f", A_PAIR)]),
        (PYTHONIC, "[f(a=inf)]", "inf)]", [("f", '{"a": ')]),
        (
            CODER,
            f"<tool_call>\n<function=f>\n{VALUES}</function>\n</tool_call>",
            "",
            [("f", CODED)],
        ),
        (CODER, "<tool_call><function=f></function></tool_call>", "", [("f", "{}")]),
        (CODER, "<tool_call><function=f>x", "x", [("f", "")]),
        (CODER, "<tool_call><function f>", None, []),
        (PYTHONIC, "[f](https://example.org)", None, []),
        (PYTHONIC, "[f(1)]", None, []),
        (PYTHONIC, "[unknown(a=1)]", None, []),
        (PYTHONIC, "<|python_start|>[g()]<|python_end|>", "", [("g", "{}")]),
    ],
)
def test_what_models_write_beside_the_rule(
    tool_format: ToolFormat, text: str, content: str | None, found: list[tuple[str, str]]
) -> None:
    assert read(tool_format, [text]) == (text if content is None else content, found)


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("For each call return <tool_call>{'name': …}</tool_call>", "hermes"),
        (
            'Respond in the format {"name": function name, "parameters": dictionary of',
            "llama3_json",
        ),
        ("You SHOULD put it as [func_name1(params_name1=params_value1)]", "pythonic"),
        ("{{ '[TOOL_CALLS] [' }}", "mistral"),
        ("<TOOLCALL>[{{ call }}]</TOOLCALL>", "nemotron"),
        ("<tool_call>\n<function=name>", "qwen3_coder"),
        ("<|tool_call|> followed by a list", "granite"),
        ("<|tool_call|>[{{ call }}]<|/tool_call|>", "phi4_mini_json"),
        ("nothing about it", "hermes"),
    ],
)
def test_a_chat_template_tells_the_format(template: str, name: str) -> None:
    assert detect(template).name == name


def test_the_setting_takes_every_format() -> None:
    assert list(ToolCallParser) == list(TOOL_FORMATS)
