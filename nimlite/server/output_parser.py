"""The text of one choice, taken apart: thoughts, content, calls of tools."""

from collections.abc import Iterable

from nimlite.server.reasoning import ReasoningParser
from nimlite.server.tool_calls import CallDelta, new_call_id
from nimlite.server.tool_parsers.parser import ToolParser
from nimlite.server.tool_parsers.scanner import CallBegin, Event


class OutputParser:
    """Thoughts come first; what is left of the text may hold calls."""

    def __init__(
        self,
        reasoning: ReasoningParser | None,
        tools: ToolParser | None,
        *,
        max_calls: int | None = None,
        has_short_ids: bool = False,
    ) -> None:
        """`max_calls`: further ones are dropped."""
        self._reasoning = reasoning
        self._tools = tools
        self._max_calls = max_calls
        self._has_short_ids = has_short_ids
        self.num_calls = 0

    @property
    def is_thinking(self) -> bool:
        return self._reasoning is not None and self._reasoning.is_thinking

    def feed(self, text: str, *, is_last: bool) -> tuple[str, str, tuple[CallDelta, ...]]:
        """(thoughts, content, calls) that became certain with this text."""
        thoughts, answer = "", text
        if self._reasoning is not None:
            thoughts, answer = self._reasoning.feed(text)
            if is_last:
                more_thoughts, more_answer = self._reasoning.finish()
                thoughts, answer = thoughts + more_thoughts, answer + more_answer
        if self._tools is None:
            return thoughts, answer, ()
        events = self._tools.feed(answer)
        if is_last:
            events += self._tools.finish()
        content = "".join(event for event in events if isinstance(event, str))
        return thoughts, content, tuple(self._calls(events))

    def _calls(self, events: Iterable[Event]) -> Iterable[CallDelta]:
        for event in events:
            if isinstance(event, str):
                continue
            self.num_calls += isinstance(event, CallBegin)
            if self._max_calls is not None and self.num_calls > self._max_calls:
                continue
            number = self.num_calls - 1
            if isinstance(event, CallBegin):
                call_id = new_call_id(is_short=self._has_short_ids)
                yield CallDelta(number, call_id, event.name)
            else:
                yield CallDelta(number, arguments=event.text)
