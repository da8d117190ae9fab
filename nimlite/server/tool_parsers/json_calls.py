"""Calls as JSON: {"name": …, "arguments": {…}}, one or a list of them."""

import json

from nimlite.server.tool_parsers.json_values import copy_value, read_string
from nimlite.server.tool_parsers.names import KnownTools
from nimlite.server.tool_parsers.scanner import NotACallError, Reading, Scanner

_ARGUMENTS = frozenset({"arguments", "parameters"})


def read_calls(scanner: Scanner, tools: KnownTools) -> Reading[None]:
    """An object, or an array of objects."""
    yield from scanner.skip_space()
    if (yield from scanner.peek()) != "[":
        yield from _Call(scanner, tools).read()
        return
    yield from scanner.take()
    yield from read_call_list(scanner, tools)


def read_call_list(scanner: Scanner, tools: KnownTools) -> Reading[None]:
    """The rest of an array that is open."""
    separator = ","
    while separator != "]":
        yield from _Call(scanner, tools).read()
        yield from scanner.skip_space()
        separator = yield from scanner.take()
        if separator not in ",]":
            raise NotACallError
    scanner.commit()


class _Call:
    """One object. It begins as a call as soon as its name and some of its arguments are there."""

    def __init__(self, scanner: Scanner, tools: KnownTools) -> None:
        self._scanner = scanner
        self._tools = tools
        self._name: str | None = None
        self._early: str | None = None
        """Arguments that came before the name."""
        self._has_begun = False

    def read(self) -> Reading[None]:
        scanner = self._scanner
        yield from scanner.skip_space()
        yield from scanner.expect("{")
        character = ","
        while character == ",":
            yield from scanner.skip_space()
            yield from self._read_member()
            yield from scanner.skip_space()
            character = yield from scanner.take()
        if character != "}" or self._name is None:
            raise NotACallError
        if not self._has_begun:
            scanner.begin(self._name)
            scanner.arguments(self._early or "{}")
        scanner.commit()

    def _read_member(self) -> Reading[None]:
        scanner = self._scanner
        key = yield from read_string(scanner)
        yield from scanner.skip_space()
        yield from scanner.expect(":")
        yield from scanner.skip_space()
        if key == "name" and self._name is None:
            self._name = yield from read_string(scanner)
            if not self._tools.accept(self._name):
                raise NotACallError
        elif key in _ARGUMENTS and not self._has_begun and self._early is None:
            yield from self._read_arguments()
        else:
            yield from copy_value(scanner, lambda character: None)

    def _read_arguments(self) -> Reading[None]:
        scanner = self._scanner
        if (yield from scanner.peek()) == "{" and self._name is not None:
            self._has_begun = True
            scanner.begin(self._name)
            yield from copy_value(scanner, scanner.arguments)
            return
        found: list[str] = []
        yield from copy_value(scanner, found.append)
        self._early = _as_object("".join(found))


def _as_object(text: str) -> str:
    """Arguments as the text of an object, which some models write into a string, or as null."""
    try:
        value = json.loads(text, strict=False)
        if isinstance(value, str):
            value = json.loads(value, strict=False)
            text = json.dumps(value)
    except (ValueError, RecursionError):
        raise NotACallError from None
    if value is None:
        return "{}"
    if not isinstance(value, dict):
        raise NotACallError
    return text
