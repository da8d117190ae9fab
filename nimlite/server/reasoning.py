"""What a model thought before it answered, told apart from the answer while both arrive."""

import enum
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningFormat:
    """The marks around thoughts."""

    begin: str
    end: str

    def is_open(self, prompt: str) -> bool:
        """Whether a chat template has begun the thoughts, so that the answer only ends them."""
        return prompt.rstrip().endswith(self.begin)


THINK = ReasoningFormat(begin="<think>", end="</think>")
BRACKETS = ReasoningFormat(begin="[THINK]", end="[/THINK]")
REASONING_FORMATS = {"think": THINK, "brackets": BRACKETS, "none": None}
"""By name."""


def detect(template: str) -> ReasoningFormat | None:
    """The marks that a chat template speaks of."""
    return next((f for f in (THINK, BRACKETS) if f.end in template or f.begin in template), None)


class _State(enum.Enum):
    START = enum.auto()
    BEFORE_THOUGHTS = enum.auto()
    THOUGHTS = enum.auto()
    BEFORE_ANSWER = enum.auto()
    ANSWER = enum.auto()


class ReasoningParser:
    """A state machine over text: the same parts, however it is cut into chunks.

    Space at both ends of the thoughts belongs to the marks. An answer without a mark is all answer,
    or all thoughts where the prompt has opened them.
    """

    def __init__(self, reasoning_format: ReasoningFormat, *, is_open: bool) -> None:
        self._format = reasoning_format
        self._is_open = is_open
        self._state = _State.START
        self._held = ""

    @property
    def is_thinking(self) -> bool:
        """Whether what comes next is thought, as far as is known."""
        if self._state is _State.START:
            return self._is_open
        return self._state in (_State.BEFORE_THOUGHTS, _State.THOUGHTS)

    def feed(self, text: str) -> tuple[str, str]:
        """(thoughts, answer) that became certain with this text."""
        if self._state is _State.ANSWER:
            return "", text
        self._held += text
        if self._state is _State.START:
            self._read_start()
        if self._state is _State.BEFORE_THOUGHTS:
            self._held = self._held.lstrip()
            if self._held:
                self._state = _State.THOUGHTS
        thoughts = self._read_thoughts() if self._state is _State.THOUGHTS else ""
        return thoughts, self._read_answer()

    def finish(self) -> tuple[str, str]:
        """What was still uncertain: no more text will come."""
        held, self._held = self._held, ""
        if self._state is _State.THOUGHTS:
            return held.rstrip(), ""
        if self.is_thinking:
            return held.strip(), ""
        return "", held if self._state is _State.START else ""

    def _read_start(self) -> None:
        begin, start = self._format.begin, self._held.lstrip()
        if start.startswith(begin):
            self._held = start[len(begin) :]
            self._state = _State.BEFORE_THOUGHTS
        elif not begin.startswith(start):
            self._state = _State.BEFORE_THOUGHTS if self._is_open else _State.ANSWER

    def _read_thoughts(self) -> str:
        end = self._format.end
        thoughts, mark, rest = self._held.partition(end)
        if mark:
            self._held = rest
            self._state = _State.BEFORE_ANSWER
            return thoughts.rstrip()
        longest = min(len(end) - 1, len(thoughts))
        num_held = next(n for n in range(longest, -1, -1) if thoughts.endswith(end[:n]))
        certain = thoughts[: len(thoughts) - num_held].rstrip()
        self._held = thoughts[len(certain) :]
        return certain

    def _read_answer(self) -> str:
        if self._state is _State.BEFORE_ANSWER:
            self._held = self._held.lstrip()
            if self._held:
                self._state = _State.ANSWER
        if self._state is not _State.ANSWER:
            return ""
        answer, self._held = self._held, ""
        return answer
