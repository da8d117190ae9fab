"""Names of tools, as they may stand in an answer without quotes."""

import re
from collections.abc import Mapping
from typing import Any

from nimlite.server.tool_parsers.scanner import NotACallError, Reading, Scanner

TOOL_NAME = r"^[A-Za-z0-9_.:/-]{1,128}$"
"""What a tool may be called: OpenAI's names, and the separators that others use."""
_tool_name = re.compile(TOOL_NAME)


def is_tool_name(text: str) -> bool:
    return _tool_name.match(text) is not None


class KnownTools:
    """The tools of a request, by name, with the JSON schemas of their arguments."""

    def __init__(self, schemas: Mapping[str, Mapping[str, Any]], *, takes_any: bool) -> None:
        """`takes_any`: also a call of a tool that there isn't is a call."""
        self._schemas = schemas
        self._takes_any = takes_any

    def accept(self, name: str) -> bool:
        """Whether a call may have this name."""
        return name in self._schemas or (self._takes_any and is_tool_name(name))

    def is_text(self, name: str, key: str) -> bool:
        """Whether that argument is a string, as far as is known."""
        properties = self._schemas.get(name, {}).get("properties")
        schema = properties.get(key) if isinstance(properties, dict) else None
        kind = schema.get("type") if isinstance(schema, dict) else None
        return kind is None or kind == "string" or (isinstance(kind, list) and "string" in kind)


def read_name(scanner: Scanner, tools: KnownTools) -> Reading[str]:
    """The name that comes next, which must be one that is accepted."""
    name = ""
    while is_tool_name((yield from scanner.peek())):
        name += yield from scanner.take()
    if not tools.accept(name):
        raise NotACallError
    return name
