"""The text of an answer, one character at a time, for readers written as generators.

A reader asks for a character by `yield from`; where none has come yet, it waits there until the
text goes on. So it reads as if the whole text were there, and how the text is cut into chunks can't
matter.
"""

from collections import deque
from collections.abc import Generator, Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")
Reading = Generator[None, str, T]
"""A reader: is sent characters, and returns what it has read."""

_MAX_UNCERTAIN = 16384
"""Characters that may be read before it is certain that they are a call: an answer can't make the
server read the same text again and again."""


class CallBegin(NamedTuple):
    """A call of the tool `name`; its arguments follow."""

    name: str


class CallArguments(NamedTuple):
    """The next characters of the latest call's arguments, which together are a JSON object."""

    text: str


Event = str | CallBegin | CallArguments
"""A string is content: text of the answer that is no call."""


class NotACallError(Exception):
    """What looked like a call is none."""


class EndOfTextError(Exception):
    """No more characters will come."""


class Scanner:
    """Hands out characters, and keeps in `raw` those that are not certain yet."""

    def __init__(self) -> None:
        self.raw = ""
        self.is_complete = False
        """No more characters will come."""
        self._ahead: deque[str] = deque()
        self._events: list[Event] = []

    def peek(self) -> Reading[str]:
        """The next character, which stays the next."""
        if not self._ahead:
            if self.is_complete:
                raise EndOfTextError
            self._ahead.append((yield))
        return self._ahead[0]

    def take(self) -> Reading[str]:
        """The next character."""
        character = yield from self.peek()
        if len(self.raw) >= _MAX_UNCERTAIN:
            raise NotACallError
        self._ahead.popleft()
        self.raw += character
        return character

    def expect(self, character: str) -> Reading[None]:
        if (yield from self.take()) != character:
            raise NotACallError

    def skip_space(self) -> Reading[None]:
        while (yield from self.peek()).isspace():
            yield from self.take()

    def match(self, candidates: Sequence[str]) -> Reading[str | None]:
        """The candidate that comes next. None: none of them; what was read stays in `raw`."""
        start = len(self.raw)
        while True:
            read = self.raw[start:]
            if read in candidates:
                return read
            read += yield from self.peek()
            if not any(candidate.startswith(read) for candidate in candidates):
                return None
            yield from self.take()

    def begin(self, name: str) -> None:
        """All read so far is the beginning of a call."""
        self.commit()
        self._events.append(CallBegin(name))

    def arguments(self, text: str) -> None:
        """All read so far belongs to the call, as `text` of its arguments."""
        self.commit()
        last = self._events[-1] if self._events else None
        if isinstance(last, CallArguments):
            self._events[-1] = CallArguments(last.text + text)
        else:
            self._events.append(CallArguments(text))

    def commit(self) -> None:
        """What was read is certain."""
        self.raw = ""

    def release(self, num_characters: int) -> None:
        """The first characters of what was read are content."""
        text, self.raw = self.raw[:num_characters], self.raw[num_characters:]
        self.content(text)

    def content(self, text: str) -> None:
        """The next characters of the content."""
        if not text:
            return
        last = self._events[-1] if self._events else None
        if isinstance(last, str):
            self._events[-1] = last + text
        else:
            self._events.append(text)

    def backtrack(self, *, num_content: int) -> None:
        """Of what was read, the first characters are content, and the rest is read again."""
        self.release(num_content)
        self._ahead.extendleft(reversed(self.raw))
        self.raw = ""

    def pop_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events
