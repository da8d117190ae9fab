"""Calls as Python: [name(key=value, …), …], whose arguments become JSON while they arrive."""

import json
import math

from nimlite.server.tool_parsers.json_calls import read_call_list
from nimlite.server.tool_parsers.names import KnownTools, read_name
from nimlite.server.tool_parsers.scanner import NotACallError, Reading, Scanner

_WORDS = {
    "True": "true",
    "true": "true",
    "False": "false",
    "false": "false",
    "None": "null",
    "null": "null",
}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\n": ""}
_NUM_DIGITS = {"x": 2, "u": 4, "U": 8}
"""Of an escape that gives a character by its number."""
_QUOTES = "'\""
_MAX_DEPTH = 64
"""Of lists in dictionaries in lists …"""


def read_pythonic_or_json_calls(scanner: Scanner, tools: KnownTools) -> Reading[None]:
    """Calls that are enforced come as JSON: [{"name": …}, …]."""
    yield from scanner.skip_space()
    yield from scanner.expect("[")
    yield from scanner.skip_space()
    is_json = (yield from scanner.peek()) == "{"
    yield from (read_call_list if is_json else _read_list)(scanner, tools)


def _read_list(scanner: Scanner, tools: KnownTools) -> Reading[None]:
    """The rest of a list of calls with keyword arguments; their values are literals."""
    separator = ","
    while separator != "]":
        yield from scanner.skip_space()
        yield from _read_call(scanner, tools)
        yield from scanner.skip_space()
        separator = yield from scanner.take()
        if separator not in ",]":
            raise NotACallError
    scanner.commit()


def _read_call(scanner: Scanner, tools: KnownTools) -> Reading[None]:
    name = yield from read_name(scanner, tools)
    yield from scanner.skip_space()
    yield from scanner.expect("(")
    yield from scanner.skip_space()
    before = "{"
    while (yield from scanner.peek()) != ")":
        key = yield from _read_key(scanner)
        if before == "{":
            scanner.begin(name)
        scanner.arguments(f"{before}{json.dumps(key)}: ")
        before = ", "
        yield from _read_value(scanner, _MAX_DEPTH)
        yield from scanner.skip_space()
        if (yield from scanner.peek()) == ",":
            yield from scanner.take()
            yield from scanner.skip_space()
        elif (yield from scanner.peek()) != ")":
            raise NotACallError
    yield from scanner.take()
    if before == "{":
        scanner.begin(name)
        scanner.arguments("{")
    scanner.arguments("}")


def _read_key(scanner: Scanner) -> Reading[str]:
    key = ""
    while (key + (yield from scanner.peek())).isidentifier():
        key += yield from scanner.take()
    yield from scanner.skip_space()
    yield from scanner.expect("=")
    yield from scanner.skip_space()
    if not key:
        raise NotACallError
    return key


def _read_value(scanner: Scanner, depth: int) -> Reading[None]:
    first = yield from scanner.peek()
    if not depth:
        raise NotACallError
    if first in _QUOTES:
        yield from _read_string(scanner)
    elif first in "[(":
        yield from _read_items(scanner, "]" if first == "[" else ")", depth)
    elif first == "{":
        yield from _read_dictionary(scanner, depth)
    else:
        scanner.arguments((yield from _read_word(scanner)))


def _read_items(scanner: Scanner, closing: str, depth: int) -> Reading[None]:
    yield from scanner.take()
    scanner.arguments("[")
    yield from scanner.skip_space()
    is_first = True
    while (yield from scanner.peek()) != closing:
        if not is_first:
            scanner.arguments(", ")
        is_first = False
        yield from _read_value(scanner, depth - 1)
        yield from _read_comma(scanner, closing)
    yield from scanner.take()
    scanner.arguments("]")


def _read_dictionary(scanner: Scanner, depth: int) -> Reading[None]:
    yield from scanner.take()
    scanner.arguments("{")
    yield from scanner.skip_space()
    is_first = True
    while (yield from scanner.peek()) != "}":
        if not is_first:
            scanner.arguments(", ")
        is_first = False
        if (yield from scanner.peek()) in _QUOTES:
            yield from _read_string(scanner)
        else:
            scanner.arguments(json.dumps((yield from _read_word(scanner))))
        yield from scanner.skip_space()
        yield from scanner.expect(":")
        scanner.arguments(": ")
        yield from scanner.skip_space()
        yield from _read_value(scanner, depth - 1)
        yield from _read_comma(scanner, "}")
    yield from scanner.take()
    scanner.arguments("}")


def _read_comma(scanner: Scanner, closing: str) -> Reading[None]:
    """A comma, or nothing before the closing bracket."""
    yield from scanner.skip_space()
    if (yield from scanner.peek()) == ",":
        yield from scanner.take()
        yield from scanner.skip_space()
    elif (yield from scanner.peek()) != closing:
        raise NotACallError


def _read_string(scanner: Scanner) -> Reading[None]:
    quote = yield from scanner.take()
    scanner.arguments('"')
    while (character := (yield from scanner.take())) != quote:
        if character == "\\":
            yield from _read_escape(scanner)
        else:
            scanner.arguments(json.dumps(character, ensure_ascii=False)[1:-1])
    scanner.arguments('"')


def _read_escape(scanner: Scanner) -> Reading[None]:
    character = yield from scanner.take()
    if character in _NUM_DIGITS:
        digits = ""
        for _ in range(_NUM_DIGITS[character]):
            digits += yield from scanner.take()
        try:
            scanner.arguments(json.dumps(chr(int(digits, 16)))[1:-1])
        except (ValueError, OverflowError):
            raise NotACallError from None
        return
    known = character in _ESCAPES or character in "\\'\""
    text = _ESCAPES.get(character, character) if known else f"\\{character}"
    scanner.arguments(json.dumps(text, ensure_ascii=False)[1:-1])


def _read_word(scanner: Scanner) -> Reading[str]:
    """A number, or True, False and None, as JSON writes them."""
    word = ""
    while (character := (yield from scanner.peek())).isalnum() or character in "+-._":
        word += yield from scanner.take()
    if word in _WORDS:
        return _WORDS[word]
    try:
        number = float(word)
    except ValueError:
        raise NotACallError from None
    if not math.isfinite(number):
        raise NotACallError
    return str(int(word)) if word.lstrip("+-").isdecimal() else json.dumps(number)
