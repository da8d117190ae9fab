"""The calls and the content of one answer, told apart while it arrives."""

import re
from collections.abc import Mapping
from typing import Any

from nimlite.server.tool_parsers.formats import ToolFormat
from nimlite.server.tool_parsers.names import KnownTools
from nimlite.server.tool_parsers.scanner import (
    EndOfTextError,
    Event,
    NotACallError,
    Reading,
    Scanner,
)


class ToolParser:
    """A state machine over characters: the same events, however the text is cut into chunks.

    Text that turns out to be no call is content, to the last character; only the marks of calls and
    the space between them are nothing. A call that has begun and then breaks off keeps what has
    come of its arguments.
    """

    def __init__(self, tool_format: ToolFormat, schemas: Mapping[str, Mapping[str, Any]]) -> None:
        """`schemas`: of the arguments, by tool. A call that no mark opens must name one of them."""
        self._format = tool_format
        self._tools = KnownTools(schemas, takes_any=False)
        self._any_tools = KnownTools(schemas, takes_any=True)
        self._scanner = Scanner()
        self._is_between = False
        """Behind calls, where another may follow."""
        self._is_in_content = False
        self._mark_start = re.compile(f"[{re.escape(''.join(o[0] for o in tool_format.openers))}]")
        self._machine = self._run()
        next(self._machine)

    def feed(self, text: str) -> list[Event]:
        """What becomes certain with this text."""
        if self._is_in_content and not self._scanner.raw:
            text = self._skip_content(text)
        for character in text:
            self._machine.send(character)
        return self._scanner.pop_events()

    def finish(self) -> list[Event]:
        """What was still uncertain: no more text will come."""
        self._scanner.is_complete = True
        try:
            self._machine.throw(EndOfTextError())
        except StopIteration:
            return self._scanner.pop_events()
        raise AssertionError("the text has ended, and the parser goes on")

    def _skip_content(self, text: str) -> str:
        """The text from where a mark may begin; what is before is content. Character by character
        the same would come of it, slower."""
        mark = self._mark_start.search(text)
        start = len(text) if mark is None else mark.start()
        self._scanner.content(text[:start])
        return text[start:]

    def _run(self) -> Reading[None]:
        scanner = self._scanner
        num_content = 0 if self._format.is_bare else 1
        step = self._read_bare() if self._format.is_bare else self._read_content()
        while True:
            try:
                yield from step
            except NotACallError:
                scanner.backtrack(num_content=num_content)
            except EndOfTextError:
                if self._is_between and self._is_no_content(scanner.raw.lstrip()):
                    scanner.commit()
                if not scanner.raw:
                    return
                scanner.backtrack(num_content=num_content)
            num_content = 1
            step = self._read_content()

    def _is_no_content(self, rest: str) -> bool:
        """Whether an answer may end so behind its calls: with nothing, or half a closing mark."""
        return not rest or any(closer.startswith(rest) for closer in self._format.closers)

    def _read_bare(self) -> Reading[None]:
        """An answer may be a call from its first character on."""
        yield from self._format.read(self._scanner, self._tools)
        yield from self._read_between()

    def _read_content(self) -> Reading[None]:
        """Up to a mark, and then the calls behind it."""
        scanner, openers = self._scanner, self._format.openers
        self._is_between = False
        self._is_in_content = True
        while scanner.raw not in openers:
            yield from scanner.take()
            while scanner.raw and not any(opener.startswith(scanner.raw) for opener in openers):
                scanner.release(1)
        self._is_in_content = False
        yield from self._format.read(scanner, self._any_tools)
        yield from self._read_between()

    def _read_between(self) -> Reading[None]:
        """After calls: others may follow. Only then, and at the end, space is not content."""
        scanner, fmt = self._scanner, self._format
        marks = (*fmt.closers, *fmt.separators, *fmt.openers)
        while True:
            self._is_between = True
            yield from scanner.skip_space()
            mark = yield from scanner.match(marks)
            if mark in fmt.closers:
                scanner.commit()
                continue
            self._is_between = False
            if mark is None:
                raise NotACallError
            is_marked = mark in fmt.openers
            yield from fmt.read(scanner, self._any_tools if is_marked else self._tools)
