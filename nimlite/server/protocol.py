"""The bodies of the two generating endpoints: OpenAI's fields and the extensions of vLLM.

Everything is checked strictly: no field is converted, ignored without a word, or unknown.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from nimlite.engine.request import MAX_LOGPROBS
from nimlite.errors import RequestError

MAX_N = 128
MAX_PROMPTS = 2048
"""Prompts in one request, and prompts times `n`."""
MAX_STOPS = 16
MAX_STOP_CHARS = 1024
MAX_STOP_TOKEN_IDS = 128
MAX_LOGIT_BIASES = 1024
_INT64 = 2**63


def _refuse_unless(*neutral: object) -> AfterValidator:
    """For a parameter without support here: only null and values that ask for nothing pass."""

    def check(value: object, info: ValidationInfo) -> object:
        if value is None or value in neutral:
            return value
        raise RequestError(
            f"The parameter '{info.field_name}' is not supported by this server; leave it out.",
            param=info.field_name,
            code="unsupported_parameter",
        )

    return AfterValidator(check)


_NULL_SCHEMA = WithJsonSchema({"type": "null", "description": "Not supported by this server."})
Unsupported = Annotated[Any, _refuse_unless(), _NULL_SCHEMA]
UnsupportedList = Annotated[Any, _refuse_unless([]), _NULL_SCHEMA]
StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
TokenIds = Annotated[list[int], Field(fail_fast=True)]


class Strict(BaseModel):
    """Base of all bodies."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


class StreamOptions(Strict):
    """What else a stream carries."""

    include_usage: bool | None = None
    """One more chunk, before the end, with the usage of the whole request."""
    continuous_usage_stats: bool | None = None
    """The usage so far in every chunk."""
    include_obfuscation: Annotated[Any, _refuse_unless(False), _NULL_SCHEMA] = None


class GenerationBody(Strict):
    """What both endpoints take."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_N)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    """-1 and 0: no limit."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: (
        Annotated[
            dict[int, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=MAX_LOGIT_BIASES)
        ]
        | None
    ) = None
    seed: Annotated[int, Field(ge=-_INT64, lt=_INT64)] | None = None
    stop: (
        StopString | Annotated[list[StopString], Field(max_length=MAX_STOPS, fail_fast=True)] | None
    ) = None
    stop_token_ids: Annotated[TokenIds, Field(max_length=MAX_STOP_TOKEN_IDS)] | None = None
    include_stop_str_in_output: bool | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    """True, the default: special tokens are left out of the text."""
    priority: Annotated[int, Field(ge=-(2**31), lt=2**31)] | None = None
    """Lower runs first."""
    cache_salt: Annotated[str, Field(max_length=256)] | None = None
    """The prefix cache is shared only between requests of equal salt."""

    user: str | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    store: Annotated[Any, _refuse_unless(False), _NULL_SCHEMA] = None

    @model_validator(mode="after")
    def _check_stream_options(self) -> "GenerationBody":
        if self.stream_options is not None and not self.stream:
            raise RequestError(
                "'stream_options' is allowed only with 'stream': true.", param="stream_options"
            )
        return self

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class TextPart(Strict):
    """One part of a message's content."""

    type: Literal["text"]
    text: str


class ChatMessage(Strict):
    """One turn of the conversation. What our own answers carry may be sent back as it came."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)]
    name: str | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    tool_calls: UnsupportedList = None
    function_call: Unsupported = None
    audio: Unsupported = None
    annotations: UnsupportedList = None

    def for_template(self) -> Mapping[str, str]:
        """The message as chat templates know it: one string, and no `developer` role."""
        parts = [self.content] if isinstance(self.content, str) else [p.text for p in self.content]
        message = {
            "role": "system" if self.role == "developer" else self.role,
            "content": "\n".join(parts),
        }
        optional = {"name": self.name, "tool_call_id": self.tool_call_id}
        return message | {key: value for key, value in optional.items() if value is not None}


class ChatCompletionRequest(GenerationBody):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    response_format: Annotated[Any, _refuse_unless({"type": "text"}), _NULL_SCHEMA] = None
    modalities: Annotated[Any, _refuse_unless(["text"]), _NULL_SCHEMA] = None
    tools: UnsupportedList = None
    tool_choice: Annotated[Any, _refuse_unless("none"), _NULL_SCHEMA] = None
    parallel_tool_calls: Annotated[Any, _refuse_unless(False), _NULL_SCHEMA] = None
    functions: UnsupportedList = None
    function_call: Annotated[Any, _refuse_unless("none"), _NULL_SCHEMA] = None
    audio: Unsupported = None
    prediction: Unsupported = None
    reasoning_effort: Unsupported = None
    verbosity: Unsupported = None
    web_search_options: Unsupported = None

    @model_validator(mode="after")
    def _check_together(self) -> "ChatCompletionRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise RequestError(
                "'top_logprobs' is allowed only with 'logprobs': true.", param="top_logprobs"
            )
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise RequestError(
                "'max_tokens' is the old name of 'max_completion_tokens': set only one of them.",
                param="max_tokens",
            )
        return self


class CompletionRequest(GenerationBody):
    """POST /v1/completions."""

    prompt: (
        str
        | Annotated[list[str], Field(fail_fast=True)]
        | TokenIds
        | Annotated[list[TokenIds], Field(fail_fast=True)]
    )
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    best_of: int | None = None
    suffix: Annotated[Any, _refuse_unless(""), _NULL_SCHEMA] = None

    @model_validator(mode="after")
    def _check_together(self) -> "CompletionRequest":
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise RequestError(
                "'best_of' other than 'n' is not supported by this server; leave it out.",
                param="best_of",
                code="unsupported_parameter",
            )
        if self.max_tokens == 0 and not self.echo:
            raise RequestError(
                "'max_tokens' must be at least 1, or 0 together with 'echo': true.",
                param="max_tokens",
            )
        return self
