"""The bodies of Anthropic's messages (https://docs.anthropic.com/en/api/messages)."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from nimlite.errors import RequestError
from nimlite.server.protocol import MAX_STOPS, StopString
from nimlite.server.strict import Strict, Unsupported, UnsupportedList
from nimlite.server.tools import MAX_TOOLS, ToolName


class CacheControl(Strict):
    """Without effect: prefixes are always cached."""

    type: Literal["ephemeral"]
    ttl: str | None = None


class Block(Strict):
    """What every block of content has."""

    cache_control: CacheControl | None = None


class TextBlock(Block):
    """A text."""

    type: Literal["text"]
    text: str
    citations: UnsupportedList = None


class ThinkingBlock(Block):
    """What an earlier answer thought."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(Block):
    """Thoughts that only their author can read; they are left out."""

    type: Literal["redacted_thinking"]
    data: str


class ToolUseBlock(Block):
    """A call that an earlier answer made."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]
    caller: dict[str, Any] | None = None


class ToolResultBlock(Block):
    """What came of a call."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: str | Annotated[list[TextBlock], Field(fail_fast=True)] | None = None
    is_error: bool | None = None


UserBlock = Annotated[TextBlock | ToolResultBlock, Field(discriminator="type")]
AssistantBlock = Annotated[
    TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock, Field(discriminator="type")
]


class UserMessage(Strict):
    """A turn of the user's."""

    role: Literal["user"]
    content: str | Annotated[list[UserBlock], Field(fail_fast=True)]


class AssistantMessage(Strict):
    """A turn of the model's; as the last message, the answer goes on with it."""

    role: Literal["assistant"]
    content: str | Annotated[list[AssistantBlock], Field(fail_fast=True)]


Message = Annotated[UserMessage | AssistantMessage, Field(discriminator="role")]


class ToolDefinition(Block):
    """A tool of the client's."""

    type: Literal["custom"] | None = None
    name: ToolName
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None


class ToolChoice(Strict):
    """Whether tools may, must or must not be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    """Of the tool that must be called."""
    disable_parallel_tool_use: bool | None = None

    @model_validator(mode="after")
    def _check_name(self) -> "ToolChoice":
        if (self.type == "tool") != (self.name is not None):
            raise RequestError(
                "'tool_choice.name' is needed with the type 'tool', and only with it.",
                param="tool_choice.name",
            )
        return self


class Thinking(Strict):
    """Whether the model should think first."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=1)] | None = None
    """Tokens after which the thoughts are ended."""
    display: Literal["summarized", "omitted"] | None = None


class Metadata(Strict):
    """About the request; without effect."""

    user_id: str | None = None


class CountTokensRequest(Strict):
    """POST /v1/messages/count_tokens."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    system: str | Annotated[list[TextBlock], Field(fail_fast=True)] | None = None
    tools: Annotated[list[ToolDefinition], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = (
        None
    )
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    cache_control: CacheControl | None = None


class MessagesRequest(CountTokensRequest):
    """POST /v1/messages."""

    max_tokens: Annotated[int, Field(ge=1)]
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    stop_sequences: (
        Annotated[list[StopString], Field(max_length=MAX_STOPS, fail_fast=True)] | None
    ) = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    container: Unsupported = None
    mcp_servers: UnsupportedList = None
