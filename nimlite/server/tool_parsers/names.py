"""Names of tools, as they may stand in an answer without quotes."""

import re
from collections.abc import Callable

from nimlite.server.tool_parsers.scanner import NotACallError, Reading, Scanner

TOOL_NAME = r"^[A-Za-z0-9_.:/-]{1,128}$"
"""What a tool may be called: OpenAI's names, and the separators that others use."""
Accepts = Callable[[str], bool]
"""Whether a call may have this name."""

_tool_name = re.compile(TOOL_NAME)


def is_tool_name(text: str) -> bool:
    return _tool_name.match(text) is not None


def read_name(scanner: Scanner, accepts: Accepts) -> Reading[str]:
    """The name that comes next, which must be one that is accepted."""
    name = ""
    while is_tool_name((yield from scanner.peek())):
        name += yield from scanner.take()
    if not accepts(name):
        raise NotACallError
    return name
