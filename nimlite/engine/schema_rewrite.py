"""A JSON schema without what asks for nothing, and in words that the grammar's compiler knows."""

from collections.abc import Callable
from typing import Any

from nimlite.engine.schema_fault import subschemas

_FORMATS = (
    *("date", "date-time", "duration", "time"),
    *("email", "hostname", "idn-email", "idn-hostname", "ipv4", "ipv6"),
    *("iri", "iri-reference", "uri", "uri-reference", "uri-template", "uuid"),
    *("json-pointer", "regex", "relative-json-pointer"),
)
"""Of draft 2020-12. Any other is a note for people, as pydantic's `path` or `password`."""
_NEUTRAL: dict[str, Callable[[Any], bool]] = {
    "format": lambda name: isinstance(name, str) and name not in _FORMATS,
    "uniqueItems": lambda wanted: wanted is False,
    "propertyNames": lambda names: names in (True, {}, {"type": "string"}),
    "unevaluatedItems": lambda allowed: allowed in (True, {}),
    "unevaluatedProperties": lambda allowed: allowed in (True, {}),
}
"""Keywords, and the values with which they ask for nothing."""


def simplify(schema: dict[str, Any]) -> dict[str, Any]:
    """`schema` is changed in place, and returned.

    Names of properties that must match a pattern or be one of a few, where nothing else is said
    of properties, become `patternProperties`.
    """
    for name, is_neutral in _NEUTRAL.items():
        if name in schema and is_neutral(schema[name]):
            del schema[name]
    _rewrite_names(schema)
    for _, child in subschemas(schema):
        if isinstance(child, dict):
            simplify(child)
    return schema


def _rewrite_names(schema: dict[str, Any]) -> None:
    if schema.keys() & {"properties", "patternProperties"} or not isinstance(
        names := schema.get("propertyNames"), dict
    ):
        return
    match names | {"type": "string"}:
        case {"pattern": str(pattern), **others} if others.keys() <= {"type"}:
            pass
        case {"enum": [*choices], **others} if others.keys() <= {"type"} and all(
            isinstance(choice, str) for choice in choices
        ):
            pattern = f"^({'|'.join(map(_escape, choices))})$"
        case _:
            return
    del schema["propertyNames"]
    schema["patternProperties"] = {pattern: schema.get("additionalProperties", {})}
    schema["additionalProperties"] = False


def _escape(text: str) -> str:
    """As a regex that matches it alone."""
    return "".join(c if c.isalnum() or c in " _-" else f"\\u{{{ord(c):x}}}" for c in text)
