"""Tools in a body: what a model may call, and whether it must."""

from typing import Annotated, Any, Literal

from pydantic import Field

from nimlite.errors import RequestError
from nimlite.server.strict import Strict
from nimlite.server.tool_parsers.names import TOOL_NAME

MAX_TOOLS = 512

ToolName = Annotated[str, Field(pattern=TOOL_NAME)]


class FunctionDefinition(Strict):
    """A function of the client's."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """The arguments as a JSON schema of an object."""
    strict: bool | None = None


class Tool(Strict):
    """One tool; functions are the only kind."""

    type: Literal["function"]
    function: FunctionDefinition

    def for_template(self) -> dict[str, Any]:
        function = self.function.model_dump(exclude_none=True, exclude={"strict"})
        return {"type": self.type, "function": function}


class FunctionName(Strict):
    """The function that must be called."""

    name: str


class NamedTool(Strict):
    """The tool that must be called."""

    type: Literal["function"]
    function: FunctionName


ToolChoice = Literal["none", "auto", "required"] | NamedTool


class CalledFunction(Strict):
    """A call that an earlier answer made."""

    name: str
    arguments: str


class ToolCall(Strict):
    """A call that an earlier answer made. `index` is what some clients keep of a stream."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


def is_forced(choice: ToolChoice | None) -> bool:
    """Whether the answer must be a call."""
    return choice == "required" or isinstance(choice, NamedTool)


def offered_tools(tools: list[Tool] | None, choice: ToolChoice | None) -> tuple[Tool, ...]:
    """The tools that an answer may call. Raises RequestError for a choice that can't be made."""
    if isinstance(choice, NamedTool):
        name = choice.function.name
        named = tuple(tool for tool in tools or () if tool.function.name == name)
        if not named:
            raise RequestError(
                f"'tool_choice' names the tool {name[:100]!r}, which is not among 'tools'.",
                param="tool_choice",
            )
        return named
    if choice == "none":
        return ()
    if choice is not None and not tools:
        raise RequestError(
            f"'tool_choice' {choice!r} needs 'tools'; give some, or leave it out.",
            param="tool_choice",
        )
    return tuple(tools or ())
