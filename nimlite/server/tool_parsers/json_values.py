"""JSON within an answer, read as it arrives."""

import json
from collections.abc import Callable

from nimlite.server.tool_parsers.scanner import NotACallError, Reading, Scanner

_CLOSING = {"{": "}", "[": "]"}


def read_string(scanner: Scanner) -> Reading[str]:
    """A whole string, decoded."""
    start = len(scanner.raw)
    yield from scanner.expect('"')
    while (character := (yield from scanner.take())) != '"':
        if character == "\\":
            yield from scanner.take()
    try:
        text = json.loads(scanner.raw[start:], strict=False)
    except ValueError:
        raise NotACallError from None
    assert isinstance(text, str)
    return text


def copy_value(scanner: Scanner, sink: Callable[[str], None]) -> Reading[None]:
    """One value, each character to `sink`. Brackets must match; what else is wrong with it is the
    reader's matter, as OpenAI says of arguments."""
    character = yield from scanner.peek()
    if character in '{["':
        yield from _copy_closed(scanner, sink)
        return
    while not ((yield from scanner.peek()) in ",}]" or (yield from scanner.peek()).isspace()):
        sink((yield from scanner.take()))


def _copy_closed(scanner: Scanner, sink: Callable[[str], None]) -> Reading[None]:
    open_brackets: list[str] = []
    in_string = False
    while True:
        character = yield from scanner.take()
        if in_string and character == "\\":
            sink(character)
            character = yield from scanner.take()
        elif character == '"':
            in_string = not in_string
        elif not in_string and character in _CLOSING:
            open_brackets.append(_CLOSING[character])
        elif not in_string and character in "}]" and open_brackets.pop() != character:
            raise NotACallError
        sink(character)
        if not open_brackets and not in_string:
            return
