"""The grammar of an answer that must call a tool: calls in the form that the model knows, with
arguments that are valid under the tool's schema."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from nimlite.engine.grammar_source import WHITESPACE
from nimlite.engine.request import Grammar
from nimlite.engine.schema_rewrite import simplify
from nimlite.server.structured import lark_grammar
from nimlite.server.tool_parsers.formats import CallForm
from nimlite.server.tools import FunctionDefinition


def calls_grammar(
    form: CallForm,
    functions: Sequence[FunctionDefinition],
    special_tokens: Mapping[str, int],
    *,
    is_single: bool,
) -> Grammar:
    """One call or more. `special_tokens`: marks that are tokens of their own, by their text."""

    def literal(text: str) -> str:
        mark = next((mark for mark in special_tokens if text.startswith(mark)), "")
        token = [f"<[{special_tokens[mark]}]>"] if mark else []
        rest = text.removeprefix(mark)
        return " ".join([*token, *([json.dumps(rest)] if rest else [])])

    more = "" if is_single else f" ({literal(form.between)} call)*"
    names = [f"call_{number}" for number in range(len(functions))]
    rules = [
        f"start: {literal(form.before)} call{more} {literal(form.after)}",
        f"call: {' | '.join(names)}",
        *(
            f"{name}: %json {json.dumps(_call_schema(function, form.arguments))}"
            for name, function in zip(names, functions, strict=True)
        ),
    ]
    return lark_grammar("\n".join(rules), param="tools")


def _call_schema(function: FunctionDefinition, key: str) -> dict[str, Any]:
    arguments = {"type": "object"} | simplify(
        _moved(function.parameters or {}, f"#/properties/{key}")
    )
    return {
        "type": "object",
        "properties": {"name": {"const": function.name}, key: arguments},
        "required": ["name", key],
        "additionalProperties": False,
        "x-guidance": {"whitespace_pattern": WHITESPACE},
    }


def _moved(schema: Any, root: str) -> Any:
    """The schema as a part of another, at `root`: its references lead there."""
    if isinstance(schema, list):
        return [_moved(item, root) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: root + value[1:]
        if key == "$ref" and isinstance(value, str) and value.startswith("#")
        else _moved(value, root)
        for key, value in schema.items()
    }
