"""How a model writes what is no plain text: its calls of tools and its thoughts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nimlite.server.output_parser import OutputParser
from nimlite.server.reasoning import REASONING_FORMATS, ReasoningFormat, ReasoningParser
from nimlite.server.reasoning import detect as detect_reasoning
from nimlite.server.tool_parsers.formats import TOOL_FORMATS, ToolFormat
from nimlite.server.tool_parsers.formats import detect as detect_tools
from nimlite.server.tool_parsers.parser import ToolParser

Schemas = Mapping[str, Mapping[str, Any]]
"""Of the arguments, by the tool's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """Said by the chat template, or by the operator."""

    tools: ToolFormat
    reasoning: ReasoningFormat | None

    @classmethod
    def of(
        cls, template: str, *, tool_parser: str | None = None, reasoning_parser: str | None = None
    ) -> "Dialect":
        """Of a model with this chat template; the names override what it says."""
        return cls(
            tools=TOOL_FORMATS[tool_parser] if tool_parser else detect_tools(template),
            reasoning=REASONING_FORMATS[reasoning_parser]
            if reasoning_parser
            else detect_reasoning(template),
        )

    @property
    def marks(self) -> tuple[str, ...]:
        """What an output parser must see, although some tokenizers count it as special."""
        of_reasoning = (self.reasoning.begin, self.reasoning.end) if self.reasoning else ()
        return (*self.tools.openers, *self.tools.closers, *of_reasoning)

    def output_parser(
        self, prompt: str, schemas: Schemas, *, max_calls: int | None = None
    ) -> OutputParser | None:
        """For an answer to `prompt`, the rendered text, that may call the tools of `schemas`. None:
        all of it is content."""
        thoughts = tools = None
        if self.reasoning is not None:
            thoughts = ReasoningParser(self.reasoning, is_open=self.reasoning.is_open(prompt))
        if schemas:
            tools = ToolParser(self.tools, schemas)
        if thoughts is None and tools is None:
            return None
        return OutputParser(
            thoughts, tools, max_calls=max_calls, has_short_ids=self.tools.has_short_ids
        )
