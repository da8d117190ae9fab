"""Structured output as clients ask for it, from the request to the last token."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import httpx
import jsonschema
import openai
import pytest
from fakes.live_engine import EngineServer
from fakes.live_server import running
from fakes.llama import Llama
from pydantic import BaseModel

from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.kernels.cpu.library import Library

ASK = {"model": "tiny", "messages": [{"role": "user", "content": "Who?"}]}
SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["cat", "dog"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 30},
        "marks": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["kind", "age", "marks"],
    "additionalProperties": False,
}
STRICT = {
    "type": "json_schema",
    "json_schema": {"name": "pet", "description": "A pet", "strict": True, "schema": SCHEMA},
}


class Pet(BaseModel):
    kind: Literal["cat", "dog"]
    age: int
    lives: list[bool] | None


@pytest.fixture(scope="module")
def server(tiny: Llama, library: Library) -> Iterator[EngineServer]:
    engine = tiny.engine(CpuKernels(library, num_threads=1))
    with running(EngineServer(engine, tiny.tokenizer_directory)) as server:
        yield server


@pytest.fixture
def client(server: EngineServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def chat(client: openai.OpenAI, **fields: object) -> list[tuple[str, str]]:
    """Text and finish reason of each choice, the same streamed."""
    known = {"response_format", "n", "stop", "temperature", "seed", "max_tokens"}
    extra = {name: value for name, value in fields.items() if name not in known}
    asked = ASK | {"seed": 1} | {name: fields[name] for name in known & set(fields)}
    whole = client.chat.completions.create(**asked, extra_body=extra)
    texts, reasons = [""] * len(whole.choices), [""] * len(whole.choices)
    for chunk in client.chat.completions.create(**asked, extra_body=extra, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason or ""
    found = [(choice.message.content, choice.finish_reason) for choice in whole.choices]
    assert found == list(zip(texts, reasons, strict=True))
    return found


def test_every_sample_of_a_schema_is_valid(client: openai.OpenAI) -> None:
    found = chat(client, response_format=STRICT, n=4, temperature=1.3)
    assert len({text for text, _ in found}) > 1
    for text, reason in found:
        assert reason == "stop"
        jsonschema.validate(json.loads(text), SCHEMA)


def test_the_clients_parse_helper(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(**ASK, response_format=Pet, temperature=1.0, seed=3)
    pet = answer.choices[0].message.parsed
    assert isinstance(pet, Pet)
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(**ASK, response_format=Pet, max_tokens=9)


def test_max_tokens_cuts_it(client: openai.OpenAI) -> None:
    [(text, reason)] = chat(client, response_format=STRICT, max_tokens=12)
    assert (len(text), reason) == (12, "length")
    assert re.match(r"\{\s?", text)


JSON = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9, "minimum": 0}}}
CLOSED = JSON | {"required": ["n"], "additionalProperties": False}
GBNF = 'root ::= "yes" | "no" digit\ndigit ::= [0-9]'


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"response_format": {"type": "text"}, "max_tokens": 5}, r"(?s).*"),
        ({"guided_json": CLOSED}, r'\{\s*"n"\s*:\s*\d\s*\}'),
        ({"guided_json": json.dumps(CLOSED), "guided_whitespace_pattern": ""}, r'\{"n":\d\}'),
        ({"nvext": {"guided_json": CLOSED, "guided_whitespace_pattern": ""}}, r'\{"n":\d\}'),
        (
            {"structured_outputs": {"json": CLOSED, "disable_any_whitespace": True}},
            r'\{"n":\d\}',
        ),
        ({"guided_regex": r"\d{3}-[a-f]+x"}, r"\d{3}-[a-f]+x"),
        ({"nvext": {"guided_regex": "(ab)+c"}, "max_tokens": 64}, r"(ab)+c?|(ab)+a"),
        ({"structured_outputs": {"regex": "z{4}"}}, "zzzz"),
        ({"guided_choice": ["red", 'a "b"\n', "日本"]}, '(red|a "b"\n|日本)'),
        ({"nvext": {"guided_choice": ["x"]}}, "x"),
        ({"structured_outputs": {"choice": ["left", "right"]}}, "(left|right)"),
        ({"guided_grammar": GBNF}, r"yes|no\d"),
        ({"nvext": {"guided_grammar": 'start: "a" /b+/ "c"'}, "max_tokens": 64}, "ab+c?"),
        ({"structured_outputs": {"grammar": GBNF}, "guided_decoding_backend": "x"}, r"yes|no\d"),
    ],
)
def test_forms_in_the_words_of(
    client: openai.OpenAI, fields: dict[str, object], pattern: str
) -> None:
    for temperature in (0.0, 1.0):
        [(text, _)] = chat(client, **fields, temperature=temperature)
        assert re.fullmatch(pattern, text), text


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_object"}},
        {"guided_json_object": True},
        {"structured_outputs": {"json_object": True}},
        {"guided_json": {}},
    ],
)
def test_any_object_begins_as_one(client: openai.OpenAI, fields: dict[str, object]) -> None:
    [(text, reason)] = chat(client, **fields, max_tokens=30)
    if reason == "stop":
        json.loads(text)
    elif fields != {"guided_json": {}}:
        assert text.startswith("{")


def test_completions_too(client: openai.OpenAI) -> None:
    ask = {"model": "tiny", "prompt": ["One:", "Two:"], "temperature": 1.0, "max_tokens": 400}
    whole = client.completions.create(**ask, n=2, extra_body={"response_format": STRICT})
    assert [choice.finish_reason for choice in whole.choices] == ["stop"] * 4
    for choice in whole.choices:
        jsonschema.validate(json.loads(choice.text), SCHEMA)


def test_with_stop_strings_logprobs_and_an_end_that_is_ignored(client: openai.OpenAI) -> None:
    [(text, reason)] = chat(client, guided_regex="[ab]{3}STOP[ab]{9}", stop="STOP")
    assert (re.fullmatch("[ab]{3}", text) is not None, reason) == (True, "stop")
    answer = client.chat.completions.create(
        **ASK,
        logprobs=True,
        top_logprobs=2,
        extra_body={"guided_regex": "[ab]{6}", "ignore_eos": True, "min_tokens": 50},
    )
    [choice] = answer.choices
    assert (len(choice.message.content), choice.finish_reason) == (6, "stop")
    positions = choice.logprobs.content
    assert "".join(position.token for position in positions) == choice.message.content
    # the model's own: what it would have said without the grammar is among them
    assert positions[0].top_logprobs[0].logprob >= positions[0].logprob


TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}{# </think> #}<think>\n"


@pytest.mark.parametrize("opening", ["<think>\n", ""])
def test_a_form_behind_thoughts(
    tiny: Llama, library: Library, tmp_path: Path, opening: str
) -> None:
    """A budget ends them, or the answer itself, which then goes on where it was."""
    directory = shutil.copytree(tiny.tokenizer_directory, tmp_path / "tokenizer")
    (directory / "chat_template.jinja").write_text(TEMPLATE.replace("<think>\n", opening))
    engine = tiny.engine(CpuKernels(library, num_threads=1))
    with (
        running(EngineServer(engine, directory)) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        answer = client.chat.completions.create(
            **ASK,
            response_format=STRICT,
            n=3,
            temperature=1.0,
            seed=2,
            extra_body={"thinking_token_budget": 9},
        )
    for choice in answer.choices:
        assert choice.finish_reason == "stop"
        jsonschema.validate(json.loads(choice.message.content), SCHEMA)
        assert bool(getattr(choice.message, "reasoning_content", "")) == bool(opening)


@pytest.mark.parametrize(
    ("fields", "param", "sentence"),
    [
        (
            {"response_format": {"type": "xml"}},
            "response_format.type",
            "expected",
        ),
        (
            {"response_format": {"type": "json_schema"}},
            "response_format.json_schema",
            "Missing required parameter",
        ),
        (
            {"guided_regex": "a", "response_format": {"type": "json_object"}},
            "guided_regex",
            "The form of the answer is given more than once, by 'response_format' and "
            "'guided_regex': leave one.",
        ),
        ({"guided_choice": []}, "guided_choice", "at least 1 item(s), got an array of 0"),
        (
            {"guided_json": {"properties": {"a": {"not": {}}}}},
            "guided_json",
            "The JSON schema in 'guided_json' can't be followed: at '#/properties/a': 'not' is not "
            "supported here.",
        ),
        (
            {"structured_outputs": {"regex": "(?<=a)b"}},
            "structured_outputs.regex",
            "look-around, including look-ahead and look-behind, is not supported",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"enum": []}},
                }
            },
            "response_format.json_schema.schema",
            "can't be followed: at '#'",
        ),
        ({"nvext": {"guided_jason": {}}}, "nvext.guided_jason", "Unknown parameter"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_refusals(
    server: EngineServer, fields: dict[str, object], param: str, sentence: str, stream: bool
) -> None:
    response = httpx.post(
        f"{server.url}/v1/chat/completions", json=ASK | fields | {"stream": stream}, timeout=60
    )
    error = response.json()["error"]
    assert response.status_code == 400
    assert sentence in error["message"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
