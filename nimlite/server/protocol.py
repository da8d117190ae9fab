"""The bodies of the two generating endpoints: OpenAI's fields and the extensions of vLLM."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from nimlite.engine.request import MAX_LOGPROBS
from nimlite.errors import RequestError
from nimlite.server.best_of import check_best_of
from nimlite.server.messages import ChatMessage
from nimlite.server.strict import NULL_SCHEMA, Strict, Unsupported, UnsupportedList, refuse_unless
from nimlite.server.structured import StructuredBody
from nimlite.server.tools import MAX_TOOLS, Tool, ToolChoice, offered_tools

MAX_N = 128
MAX_PROMPTS = 2048
"""Prompts in one request, and prompts times `n`."""
MAX_STOPS = 16
MAX_STOP_CHARS = 1024
MAX_STOP_TOKEN_IDS = 128
MAX_LOGIT_BIASES = 1024
_INT64 = 2**63


StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
TokenIds = Annotated[list[int], Field(fail_fast=True)]


class StreamOptions(Strict):
    """What else a stream carries."""

    include_usage: bool | None = None
    """One more chunk, before the end, with the usage of the whole request."""
    continuous_usage_stats: bool | None = None
    """The usage so far in every chunk."""
    include_obfuscation: Annotated[Any, refuse_unless(False), NULL_SCHEMA] = None


class GenerationBody(StructuredBody):
    """What both endpoints take."""

    model: str
    stream: bool | None = None
    """Send the answer as it grows, as server-sent events."""
    stream_options: StreamOptions | None = None
    """Only with `stream`."""
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_N)] | None = None
    """Answers to each prompt."""
    best_of: Annotated[int, Field(ge=1, le=MAX_N)] | None = None
    """Answers that are made, of which the `n` likeliest a token are returned; unset: `n`."""
    use_beam_search: bool | None = None
    """Find the likeliest answers as a whole, by `best_of` (or `n`) beams, all at the end. The
    temperature and the other ways to draw tokens have no part in it."""
    length_penalty: Annotated[float, Field(ge=-10, le=10)] | None = None
    """Of a beam search: answers are compared by their log-probability over their length to the
    power of it; unset: 1."""
    early_stopping: bool | Literal["never"] | None = None
    """Of a beam search: true ends it with the first answers that are complete, "never" only where
    no better ones can come; false, the default, in between."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """0 takes the likeliest token; unset: 1."""
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """The likeliest tokens that together have this probability are drawn from."""
    top_k: Annotated[int, Field(ge=-1)] | None = None
    """-1 and 0: no limit."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Tokens less likely than this share of the likeliest are left out."""
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    """Over 1: tokens of the prompt and the answer become less likely."""
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """Over 0: tokens of the answer become less likely."""
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """Over 0: the more often a token is in the answer, the less likely it becomes."""
    logit_bias: (
        Annotated[
            dict[int, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=MAX_LOGIT_BIASES)
        ]
        | None
    ) = None
    seed: Annotated[int, Field(ge=-_INT64, lt=_INT64)] | None = None
    """The same seed, the same answer."""
    stop: (
        StopString | Annotated[list[StopString], Field(max_length=MAX_STOPS, fail_fast=True)] | None
    ) = None
    """The text ends before the first of them."""
    stop_token_ids: Annotated[TokenIds, Field(max_length=MAX_STOP_TOKEN_IDS)] | None = None
    include_stop_str_in_output: bool | None = None
    """Keep the stop string at the end of the text."""
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    """Before so many tokens no answer ends."""
    ignore_eos: bool | None = None
    """Go on behind the model's own end, up to the limit of tokens."""
    skip_special_tokens: bool | None = None
    """True, the default: special tokens are left out of the text."""
    prompt_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    """Log-probabilities of the prompt's tokens, and of so many of the likeliest at each."""
    priority: Annotated[int, Field(ge=-(2**31), lt=2**31)] | None = None
    """Lower runs first, and takes the place of higher ones where there is not room for both."""
    cache_salt: Annotated[str, Field(max_length=256)] | None = None
    """The prefix cache is shared only between requests of equal salt."""

    num_speculative_tokens: Annotated[int, Field(ge=0)] | None = None
    """Tokens guessed in a step at most, 0: none. Unset: as the server is set."""

    user: str | None = None
    """Where no API keys are set: requests of one user share what is one user's."""
    metadata: dict[str, str] | None = None
    """Without effect, as are the next ones."""
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    moderation: Unsupported = None
    store: Annotated[Any, refuse_unless(False), NULL_SCHEMA] = None

    @model_validator(mode="after")
    def _check_stream_options(self) -> "GenerationBody":
        if self.stream_options is not None and not self.stream:
            raise RequestError(
                "'stream_options' is allowed only with 'stream': true.", param="stream_options"
            )
        if self.prompt_logprobs is not None and self.stream:
            raise RequestError(
                "'prompt_logprobs' can't be streamed: leave 'stream' out.", param="prompt_logprobs"
            )
        check_best_of(self)
        return self

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class ChatCompletionRequest(GenerationBody):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """Limit of the answer's tokens, thoughts among them; unset: what the context holds."""
    logprobs: bool | None = None
    """Log-probabilities of the answer's tokens."""
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = None
    """Whether tools may, must or must not be called. Unset: they may."""
    parallel_tool_calls: bool | None = None
    """False: at most one call an answer."""
    add_generation_prompt: bool | None = None
    """False: the prompt ends with the last message, not with the beginning of an answer."""
    continue_final_message: bool | None = None
    """The answer goes on with the last message, which is an assistant's."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Variables for the model's chat template, as `enable_thinking`."""
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    """Handed to the chat template; "none" switches thoughts off where the model lets it."""
    max_thinking_tokens: Annotated[int, Field(ge=1)] | None = None
    """Tokens after which thoughts are ended, in NIM's word for it; in vLLM's,
    `thinking_token_budget`."""
    thinking_token_budget: Annotated[int, Field(ge=1)] | None = None
    include_reasoning: bool | None = None
    """False: what the model thought is left out of the answer."""

    modalities: Annotated[Any, refuse_unless(["text"]), NULL_SCHEMA] = None
    functions: UnsupportedList = None
    function_call: Annotated[Any, refuse_unless("none"), NULL_SCHEMA] = None
    audio: Unsupported = None
    prediction: Unsupported = None
    verbosity: Annotated[Any, refuse_unless("medium"), NULL_SCHEMA] = None
    web_search_options: Unsupported = None

    @property
    def thinking_budget(self) -> int | None:
        """Tokens of thought; None: no limit."""
        return self.max_thinking_tokens or self.thinking_token_budget

    @model_validator(mode="after")
    def _check_together(self) -> "ChatCompletionRequest":
        for index, message in enumerate(self.messages):
            message.check(f"messages[{index}]")
        offered_tools(self.tools, self.tool_choice)
        if self.continue_final_message and self.messages[-1].role != "assistant":
            raise RequestError(
                "'continue_final_message' needs a last message of the role 'assistant'.",
                param="continue_final_message",
            )
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
    """The text begins with the prompt."""
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    suffix: Annotated[Any, refuse_unless(""), NULL_SCHEMA] = None

    @model_validator(mode="after")
    def _check_together(self) -> "CompletionRequest":
        if self.echo and self.logprobs is not None and self.prompt_logprobs is not None:
            raise RequestError(
                "With 'echo' and 'logprobs' the prompt's log-probabilities come already: leave "
                "'prompt_logprobs' out.",
                param="prompt_logprobs",
            )
        if self.max_tokens == 0 and not self.echo:
            raise RequestError(
                "'max_tokens' must be at least 1, or 0 together with 'echo': true.",
                param="max_tokens",
            )
        return self
