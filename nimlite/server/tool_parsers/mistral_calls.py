"""Mistral's calls: a list of JSON objects, or in newer models a name and then its arguments."""

from nimlite.server.tool_parsers.json_calls import read_calls
from nimlite.server.tool_parsers.json_values import copy_value
from nimlite.server.tool_parsers.names import KnownTools, read_name
from nimlite.server.tool_parsers.scanner import NotACallError, Reading, Scanner


def read_mistral_calls(scanner: Scanner, tools: KnownTools) -> Reading[None]:
    """[{"name": …}], or name{…}, name[ARGS]{…}, name[CALL_ID]id[ARGS]{…}."""
    yield from scanner.skip_space()
    if (yield from scanner.peek()) in "[{":
        yield from read_calls(scanner, tools)
        return
    name = yield from read_name(scanner, tools)
    yield from scanner.skip_space()
    if (yield from scanner.peek()) == "[":
        marker = yield from scanner.match(("[ARGS]", "[CALL_ID]"))
        if marker == "[CALL_ID]":
            while (yield from scanner.peek()).isalnum():
                yield from scanner.take()
            marker = yield from scanner.match(("[ARGS]",))
        if marker is None:
            raise NotACallError
        yield from scanner.skip_space()
    if (yield from scanner.peek()) != "{":
        raise NotACallError
    scanner.begin(name)
    yield from copy_value(scanner, scanner.arguments)
