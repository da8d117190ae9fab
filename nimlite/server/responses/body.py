"""The body of POST /v1/responses (https://platform.openai.com/docs/api-reference/responses)."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from nimlite.errors import RequestError
from nimlite.server.responses.items import InputItem
from nimlite.server.strict import NULL_SCHEMA, Strict, Unsupported, refuse_unless
from nimlite.server.structured import JsonObjectFormat, TextFormat
from nimlite.server.tools import MAX_TOOLS, ToolName


def _with_type(item: object) -> object:
    """A message may leave its type out."""
    if isinstance(item, dict) and "type" not in item:
        return item | {"type": "message"}
    return item


Item = Annotated[InputItem, Field(discriminator="type"), BeforeValidator(_with_type)]


class FunctionTool(Strict):
    """A function of the client's; functions are the only kind of tools."""

    type: Literal["function"]
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """The arguments as a JSON schema of an object."""
    strict: bool | None = None


class NamedFunction(Strict):
    """The function that must be called."""

    type: Literal["function"]
    name: str


class SchemaFormat(Strict):
    """A text that is JSON and valid under a schema."""

    type: Literal["json_schema"]
    name: Annotated[str, Field(min_length=1, max_length=64)]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None


class TextConfig(Strict):
    """The form of the answer's text."""

    format: (
        Annotated[TextFormat | JsonObjectFormat | SchemaFormat, Field(discriminator="type")] | None
    ) = None
    verbosity: Annotated[Any, refuse_unless("medium"), NULL_SCHEMA] = None


class Reasoning(Strict):
    """How much the model should think."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    """Without effect: thoughts come in full."""
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class StreamOptions(Strict):
    """What else a stream carries."""

    include_obfuscation: Annotated[Any, refuse_unless(False), NULL_SCHEMA] = None


class ResponsesRequest(Strict):
    """POST /v1/responses."""

    model: str
    input: str | Annotated[list[Item], Field(min_length=1, fail_fast=True)]
    instructions: str | None = None
    """A system message, which later responses don't inherit."""
    previous_response_id: str | None = None
    """The conversation goes on behind that response, as long as it is kept here."""
    store: bool | None = None
    """False: the response isn't kept. Of those that are, the oldest go first."""
    background: bool | None = None
    """True: the answer comes at once, without output, and is to be asked for by its id."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedFunction | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    text: TextConfig | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    """Variables for the model's chat template, as `enable_thinking`."""
    metadata: dict[str, str] | None = None
    include: list[Literal["reasoning.encrypted_content"]] | None = None
    """Without effect: thoughts are never encrypted."""

    user: str | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    truncation: Annotated[Any, refuse_unless("disabled"), NULL_SCHEMA] = None
    top_logprobs: Annotated[Any, refuse_unless(0), NULL_SCHEMA] = None
    max_tool_calls: Unsupported = None
    conversation: Unsupported = None
    prompt: Unsupported = None
    context_management: Unsupported = None
    moderation: Unsupported = None

    @model_validator(mode="after")
    def _check_background(self) -> "ResponsesRequest":
        if self.background and self.stream:
            raise RequestError(
                "A response in the background can't be streamed here: leave 'stream' out.",
                param="stream",
            )
        if self.background and self.store is False:
            raise RequestError(
                "A response in the background must be stored, to be asked for later.",
                param="store",
            )
        return self
