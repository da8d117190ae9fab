"""From the bytes of a body to a checked object, or to a sentence that says which field is wrong."""

import difflib
import http
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import pydantic_core
from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import ClientDisconnect

from nimlite.errors import RequestCancelledError, RequestError

Body = TypeVar("Body", bound=BaseModel)

_EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "an object",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "a number greater than {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "int_parsing": "an integer",
    "int_parsing_size": "an integer",
    "int_type": "an integer",
    "less_than": "a number less than {lt}",
    "less_than_equal": "a number of at most {le}",
    "list_type": "an array",
    "literal_error": "{expected}",
    "model_type": "an object",
    "string_pattern_mismatch": "a string like {pattern}",
    "string_too_long": "a string of at most {max_length} characters",
    "string_too_short": "a string of at least {min_length} character(s)",
    "string_type": "a string",
    "too_long": "at most {max_length} items",
    "too_short": "at least {min_length} item(s)",
}
_TYPE_ERRORS = frozenset(name for name in _EXPECTED if name.endswith("_type"))
_SHOWN_CHARS = 40


class UnsupportedMediaTypeError(RequestError):
    """A body that doesn't claim to be JSON."""

    status = http.HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    code = "unsupported_media_type"


async def read_body(request: Request, schema: type[Body]) -> Body:
    """The body as `schema`. Raises RequestError."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaTypeError(
            f"The body must be JSON, sent with the header 'Content-Type: application/json'; "
            f"it was {media_type[:100] or 'missing'!r}."
        )
    try:
        raw = await request.body()
    except ClientDisconnect:
        raise RequestCancelledError("The client left before its request was here.") from None
    try:
        return schema.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            reason = first["ctx"]["error"]
            raise RequestError(
                f"The body is not valid JSON: {reason}.", code="invalid_json"
            ) from None
        raise _explain(error, pydantic_core.from_json(raw), schema) from None


def checked(schema: type[Body], fields: Mapping[str, Any]) -> Body:
    """`fields` as `schema`: of another protocol's body. Raises RequestError."""
    try:
        return schema.model_validate(fields)
    except ValidationError as error:
        raise _explain(error, fields, schema) from None


def _explain(error: ValidationError, body: object, schema: type[BaseModel]) -> RequestError:
    """One sentence for the first field in error."""
    errors = error.errors(include_url=False)
    located = [(_real_path(body, details["loc"]), details) for details in errors]
    field = located[0][0][:1]
    # Each alternative of a union complains; the one that got furthest is the one that was meant.
    furthest = max((path for path, _ in located if path[:1] == field), key=_reach)
    alternatives = [details for path, details in located if path == furthest]
    return _describe(furthest, alternatives, schema)


def _reach(path: Sequence[int | str]) -> tuple[int, list[int]]:
    """How far validation got: depth first, then the index in each array."""
    return len(path), [step if isinstance(step, int) else 0 for step in path]


def _real_path(body: object, loc: Sequence[int | str]) -> tuple[int | str, ...]:
    """`loc` without the names that pydantic inserts for alternatives of a union."""
    path: list[int | str] = []
    value: Any = body
    for index, step in enumerate(loc):
        in_object = isinstance(value, dict) and step in value
        in_array = isinstance(value, list) and isinstance(step, int) and step < len(value)
        if in_object or in_array:
            value = value[step]
            path.append(step)
        elif isinstance(value, dict) and index == len(loc) - 1:
            path.append(step)  # a field that is missing
    return tuple(path)


def _describe(
    path: tuple[int | str, ...], alternatives: list[ErrorDetails], schema: type[BaseModel]
) -> RequestError:
    first = alternatives[0]
    name = _name(path)
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, RequestError):
        return cause
    if first["type"] == "missing":
        return _missing(name)
    if first["type"] == "extra_forbidden":
        hint = _nearest(str(path[-1]), schema) if len(path) == 1 else ""
        return RequestError(
            f"Unknown parameter: '{name}'.{hint}", param=name, code="unknown_parameter"
        )
    if first["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return _describe_tag(name, first)
    wanted = list(dict.fromkeys(_expected(details) for details in alternatives))
    is_type_error = all(details["type"] in _TYPE_ERRORS for details in alternatives)
    where = f"'{name}'" if path else "the body"
    return RequestError(
        f"Invalid {'type' if is_type_error else 'value'} for {where}: "
        f"expected {' or '.join(wanted)}, got {_show(first['input'])}.",
        param=name or None,
        code="invalid_type" if is_type_error else "invalid_value",
    )


def _missing(name: str) -> RequestError:
    return RequestError(
        f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter"
    )


def _describe_tag(name: str, details: ErrorDetails) -> RequestError:
    """Of an object whose kind one of its fields should tell."""
    tag = details["ctx"]["discriminator"].strip("'")
    name = f"{name}.{tag}"
    if details["type"] == "union_tag_not_found":
        return _missing(name)
    return RequestError(
        f"Invalid value for '{name}': expected {details['ctx']['expected_tags']}, got "
        f"{_show(details['ctx']['tag'])}.",
        param=name,
        code="invalid_value",
    )


def _name(path: tuple[int | str, ...]) -> str:
    """('messages', 0, 'role') as messages[0].role."""
    parts = (f"[{step}]" if isinstance(step, int) else f".{step[:100]}" for step in path)
    return "".join(parts).removeprefix(".")


def _expected(details: ErrorDetails) -> str:
    template = _EXPECTED.get(details["type"])
    return template.format(**details.get("ctx", {})) if template else details["msg"]


def _nearest(name: str, schema: type[BaseModel]) -> str:
    matches = difflib.get_close_matches(name[:100], schema.model_fields, n=1)
    return f" Did you mean '{matches[0]}'?" if matches else ""


def _show(value: object) -> str:
    """What was given, in JSON's words and never longer than a line."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)[:_SHOWN_CHARS]
        case str():
            ellipsis = "…" if len(value) > _SHOWN_CHARS else ""
            return f"the string {value[:_SHOWN_CHARS]!r}{ellipsis}"
        case list():
            return f"an array of {len(value)}"
        case _:
            return "an object"
