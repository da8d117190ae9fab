"""The messages of a chat body."""

import json
from typing import Annotated, Any, Literal

from pydantic import Field

from nimlite.errors import RequestError
from nimlite.server.strict import Strict, Unsupported, UnsupportedList
from nimlite.server.tools import ToolCall


class TextPart(Strict):
    """One part of a message's content."""

    type: Literal["text"]
    text: str


class ChatMessage(Strict):
    """One turn of the conversation. What our own answers carry may be sent back as it came."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)] | None = None
    """Null only where an assistant called tools instead."""
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    """What an assistant called."""
    tool_call_id: str | None = None
    """The call that a tool answers."""
    reasoning_content: str | None = None
    """What an assistant thought; chat templates mostly drop it."""
    refusal: str | None = None
    function_call: Unsupported = None
    audio: Unsupported = None
    annotations: UnsupportedList = None

    def check(self, param: str) -> None:
        """Raises RequestError for fields that contradict the role."""
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise RequestError(
                f"Missing required parameter: '{param}.content'.",
                param=f"{param}.content",
                code="missing_required_parameter",
            )
        if self.tool_calls and self.role != "assistant":
            raise RequestError(
                f"'{param}.tool_calls' is allowed only in messages of the role 'assistant'.",
                param=f"{param}.tool_calls",
            )

    def for_template(self) -> dict[str, Any]:
        """The message as chat templates know it: one string, and no `developer` role."""
        content = self.content or ""
        parts = [content] if isinstance(content, str) else [part.text for part in content]
        message: dict[str, Any] = {
            "role": "system" if self.role == "developer" else self.role,
            "content": "\n".join(parts),
        }
        if self.tool_calls:
            message["tool_calls"] = [_call_for_template(call) for call in self.tool_calls]
        optional = {
            "name": self.name,
            "tool_call_id": self.tool_call_id,
            "reasoning_content": self.reasoning_content,
        }
        return message | {key: value for key, value in optional.items() if value is not None}


def _call_for_template(call: ToolCall) -> dict[str, Any]:
    """Templates write the arguments as JSON themselves."""
    function = {"name": call.function.name, "arguments": _object(call.function.arguments)}
    return {"id": call.id, "type": call.type, "function": function}


def _object(arguments: str) -> object:
    """What a model wrote and is no object stays as it is: an agent must be able to go on."""
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments
