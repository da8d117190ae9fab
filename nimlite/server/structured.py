"""Structured output: what a request may say about the form of its answer, in OpenAI's words, in
vLLM's and in NIM's, and the one grammar that it comes to."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from nimlite.engine.request import Grammar, GrammarKind
from nimlite.errors import RequestError
from nimlite.server.strict import Strict

MAX_CHOICES = 4096

JsonSchema = dict[str, Any] | bool
Choices = Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)]


class JsonSchemaFormat(Strict):
    """The schema of a `response_format`."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    """None: any object."""
    strict: bool | None = None
    """The answer follows the schema in any case."""


class TextFormat(Strict):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(Strict):
    """Some JSON object."""

    type: Literal["json_object"]


class JsonSchemaResponse(Strict):
    """JSON that is valid under a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchemaFormat


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaResponse, Field(discriminator="type")
]


class Guided(Strict):
    """vLLM's and NIM's own fields, as they were; at most one of them."""

    guided_json: str | JsonSchema | None = None
    """A JSON schema, or its text."""
    guided_json_object: bool | None = None
    guided_regex: str | None = None
    guided_choice: Choices | None = None
    guided_grammar: str | None = None
    """Lark, or GBNF (llama.cpp's EBNF)."""
    guided_whitespace_pattern: str | None = None
    """A regex of what may stand between the tokens of JSON."""
    guided_decoding_backend: str | None = None
    """Without effect: there is one."""


class StructuredOutputs(Strict):
    """vLLM's newer object."""

    json_: Annotated[str | JsonSchema | None, Field(alias="json")] = None
    json_object: bool | None = None
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None
    whitespace_pattern: str | None = None
    disable_any_whitespace: bool | None = None


class StructuredBody(Guided):
    """What a generating endpoint takes for the form of its answer."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    nvext: Guided | None = None
    """NIM 1.x had them here."""


def json_schema_grammar(
    schema: str | JsonSchema, *, param: str | None = None, whitespace: str | None = None
) -> Grammar:
    """A JSON text that is valid under `schema`; an object's properties come in its order."""
    text = schema if isinstance(schema, str) else json.dumps(schema)
    return Grammar(GrammarKind.JSON_SCHEMA, text, whitespace, param)


def regex_grammar(regex: str, *, param: str | None = None) -> Grammar:
    """A text that `regex` matches from its first character to its last."""
    return Grammar(GrammarKind.REGEX, regex, None, param)


def choice_grammar(choices: Sequence[str], *, param: str | None = None) -> Grammar:
    """One of the texts."""
    alternatives = " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)
    return lark_grammar(f"start: {alternatives}", param=param)


def lark_grammar(text: str, *, param: str | None = None) -> Grammar:
    """What follows from the rule `start`. A rule may hold `%json {schema}`, a special token by its
    name (`<|im_end|>`), or `/regex/`."""
    return Grammar(GrammarKind.LARK, text, None, param)


def ebnf_grammar(text: str, *, param: str | None = None) -> Grammar:
    """Lark or GBNF, whichever it looks like."""
    return Grammar(GrammarKind.EBNF, text, None, param)


def grammar_of(body: StructuredBody) -> Grammar | None:
    """The grammar that the answer must follow, None for any text. Raises RequestError where there
    are several."""
    found = [
        *_of_response_format(body.response_format),
        *_of_guided(body, ""),
        *(_of_guided(body.nvext, "nvext.") if body.nvext else ()),
        *(_of_structured_outputs(body.structured_outputs) if body.structured_outputs else ()),
    ]
    if len(found) > 1:
        names = " and ".join(f"'{grammar.param}'" for grammar in found)
        raise RequestError(
            f"The form of the answer is given more than once, by {names}: leave one.",
            param=found[1].param,
        )
    return found[0] if found else None


def _of_response_format(response_format: ResponseFormat | None) -> Iterable[Grammar]:
    match response_format:
        case JsonObjectFormat():
            yield json_schema_grammar({"type": "object"}, param="response_format")
        case JsonSchemaResponse(json_schema=wanted):
            schema = {"type": "object"} if wanted.schema_ is None else wanted.schema_
            yield json_schema_grammar(schema, param="response_format.json_schema.schema")


def _of_guided(guided: Guided, prefix: str) -> Iterable[Grammar]:
    blanks = guided.guided_whitespace_pattern
    if guided.guided_json is not None:
        param = f"{prefix}guided_json"
        yield json_schema_grammar(guided.guided_json, param=param, whitespace=blanks)
    if guided.guided_json_object:
        param = f"{prefix}guided_json_object"
        yield json_schema_grammar({"type": "object"}, param=param, whitespace=blanks)
    if guided.guided_regex is not None:
        yield regex_grammar(guided.guided_regex, param=f"{prefix}guided_regex")
    if guided.guided_choice is not None:
        yield choice_grammar(guided.guided_choice, param=f"{prefix}guided_choice")
    if guided.guided_grammar is not None:
        yield ebnf_grammar(guided.guided_grammar, param=f"{prefix}guided_grammar")


def _of_structured_outputs(outputs: StructuredOutputs) -> Iterable[Grammar]:
    """They are the older fields under other names."""
    guided = Guided(
        guided_json=outputs.json_,
        guided_json_object=outputs.json_object,
        guided_regex=outputs.regex,
        guided_choice=outputs.choice,
        guided_grammar=outputs.grammar,
        guided_whitespace_pattern=(
            "" if outputs.disable_any_whitespace else outputs.whitespace_pattern
        ),
    )
    for grammar in _of_guided(guided, ""):
        name = (grammar.param or "").removeprefix("guided_")
        yield dataclasses.replace(grammar, param=f"structured_outputs.{name}")
