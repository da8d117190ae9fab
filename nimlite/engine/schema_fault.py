"""Which part of a JSON schema is at fault: the deepest one that is refused for that reason."""

from collections.abc import Callable, Iterator
from typing import Any

_MAX_CHECKS = 500
_ONE = (
    "additionalItems",
    "additionalProperties",
    "contains",
    "contentSchema",
    "else",
    "if",
    "items",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
)
_LISTS = ("allOf", "anyOf", "items", "oneOf", "prefixItems")
_MAPS = ("$defs", "definitions", "dependentSchemas", "patternProperties", "properties")


def find_fault(root: dict[str, Any], check: Callable[[dict[str, Any]], str]) -> tuple[str, str]:
    """The part, as a JSON pointer (`#/properties/name`), and its reason.

    `root`: a schema that `check` refuses; `check` says why, or nothing. A part is checked beside
    the root's definitions, which it may refer to.
    """
    path, node, reason = "#", root, check(root)
    num_checks = 0
    descended = True
    while descended:
        descended = False
        for step, child in subschemas(node):
            num_checks += 1
            if num_checks > _MAX_CHECKS or not isinstance(child, dict):
                continue
            found = check(_definitions(root) | child)
            if found and _is_about_the_same(found, reason):
                path, node, reason, descended = f"{path}/{step}", child, found, True
                break
    return path, reason


def _is_about_the_same(part: str, whole: str) -> bool:
    """What makes a part impossible makes the whole so, which says it in other words."""
    return part == whole or (part.startswith("Unsatisfiable") and whole.startswith("Unsatisfiable"))


def subschemas(schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The schemas right below, each with its part of a JSON pointer."""
    for name in _ONE:
        if name in schema and not isinstance(schema[name], list):
            yield name, schema[name]
    for name in _LISTS:
        if isinstance(schema.get(name), list):
            for index, child in enumerate(schema[name]):
                yield f"{name}/{index}", child
    for name in _MAPS:
        if isinstance(schema.get(name), dict):
            for key, child in schema[name].items():
                yield f"{name}/{_escape(key)}", child


def _definitions(root: dict[str, Any]) -> dict[str, Any]:
    return {name: root[name] for name in ("$defs", "definitions") if name in root}


def _escape(key: str) -> str:
    """RFC 6901."""
    return key.replace("~", "~0").replace("/", "~1")
