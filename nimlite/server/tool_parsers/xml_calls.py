"""Calls as tags: <function=name><parameter=key>value</parameter></function>."""

import json

from nimlite.server.tool_parsers.json_calls import read_calls
from nimlite.server.tool_parsers.names import KnownTools, read_name
from nimlite.server.tool_parsers.scanner import NotACallError, Reading, Scanner

_WORDS = {"True": "true", "False": "false", "None": "null"}


def read_xml_or_json_calls(scanner: Scanner, tools: KnownTools) -> Reading[None]:
    """Calls that are enforced come as JSON: {"name": …}."""
    yield from scanner.skip_space()
    if (yield from scanner.peek()) == "{":
        yield from read_calls(scanner, tools)
        return
    if (yield from scanner.match(("<function=",))) is None:
        raise NotACallError
    name = yield from read_name(scanner, tools)
    yield from scanner.expect(">")
    scanner.begin(name)
    before = "{"
    while (yield from _read_tag(scanner)) == "<parameter=":
        key = yield from _read_until(scanner, ">")
        value = yield from _read_until(scanner, "</parameter>")
        text = value.removeprefix("\n").removesuffix("\n")
        value_json = json.dumps(text) if tools.is_text(name, key) else _as_json(text)
        scanner.arguments(f"{before}{json.dumps(key)}: {value_json}")
        before = ", "
    scanner.arguments("{}" if before == "{" else "}")


def _read_tag(scanner: Scanner) -> Reading[str]:
    yield from scanner.skip_space()
    tag = yield from scanner.match(("<parameter=", "</function>"))
    if tag is None:
        raise NotACallError
    return tag


def _read_until(scanner: Scanner, end: str) -> Reading[str]:
    """What stands before `end`, however long: it is certain that it belongs to the call."""
    found: list[str] = []
    while True:
        found.append((yield from scanner.take()))
        scanner.commit()
        if found[-1] == end[-1] and "".join(found[-len(end) :]) == end:
            return "".join(found[: -len(end)])


def _as_json(text: str) -> str:
    """A value as models write it: JSON, or a word of Python's. Anything else is a string."""
    word = text.strip()
    if word in _WORDS:
        return _WORDS[word]
    try:
        return json.dumps(json.loads(word), allow_nan=False)
    except (ValueError, RecursionError):
        return json.dumps(text)
