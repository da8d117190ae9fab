"""What crosses the seam between the server and the engine: plain, frozen messages.

A `Request` goes in, `Delta`s come out: one batch of them a step. They hold only plain data, so the
engine loop can be a thread or a child process without a change on either side.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from nimlite.models.embedding import Pooling

MAX_LOGPROBS = 20
"""OpenAI's limit for `top_logprobs`."""


class FinishReason(enum.StrEnum):
    """Why a sequence ended, in OpenAI's words where it has one."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"
    REFUSED = "refused"
    """The request itself was wrong, as only the engine could see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to choose tokens. The server has checked the ranges; the engine asserts nothing about
    them.

    Stop strings are not here: text exists only outside the engine, so the server looks for them and
    aborts.
    """

    temperature: float = 1.0
    """0 chooses the most likely token."""
    top_p: float = 1.0
    top_k: int = 0
    """0 means no limit."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    """Same seed, same tokens, whatever else is in the batch. None: the engine draws one."""
    max_tokens: int = 16
    min_tokens: int = 0
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    """None: no log-probabilities. k: the chosen token's and the k most likely ones'."""
    prompt_logprobs: int | None = None
    """As `logprobs`, for the tokens of the prompt (OpenAI's `echo` with `logprobs`)."""


class GrammarKind(enum.StrEnum):
    """The language that a `Grammar` is written in."""

    JSON_SCHEMA = "json_schema"
    """A schema as JSON text. The order of an object's properties is the schema's."""
    REGEX = "regex"
    """Of the whole text, in the syntax of Rust's regex crate."""
    LARK = "lark"
    """Lark as llguidance writes it: its rules may hold `%json {schema}` and `<special_token>`."""
    EBNF = "ebnf"
    """Lark or GBNF, whichever it looks like."""


@dataclass(frozen=True, slots=True)
class Thoughts:
    """Any text between two marks."""

    begin: str
    end: str
    is_open: bool
    """The prompt has begun them, so that they must be ended. Else they may be left out."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """What the output must be, from its first token to its last."""

    kind: GrammarKind
    text: str
    whitespace: str | None = None
    """A regex of what may stand between the tokens of a JSON text; None: `WHITESPACE`."""
    param: str | None = field(default=None, compare=False)
    """The field of the request that it came from, for error messages."""
    thoughts: Thoughts | None = None
    """What may come before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamSearch:
    """How to search for the answers that are likeliest as a whole."""

    width: int
    """Texts that are followed at once."""
    length_penalty: float = 1.0
    """Texts are compared by their log-probability over length to the power of it: 0 prefers short
    ones, more than 1 long ones."""
    early_stopping: bool | Literal["never"] = False
    """True: end with the first `width` texts that have ended. False: where those that run would
    have to become better to still win; "never": where they can't, however long they become."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One sequence to generate. `n` samples of one prompt are n requests with one `group`."""

    id: str
    prompt_token_ids: tuple[int, ...]
    params: SamplingParams
    priority: int = 0
    """Lower runs first; equal ones of a client in order of arrival."""
    client: str = ""
    """Whose it is: clients get equal shares of the tokens while they wait."""
    weight: float = 1.0
    """Of the client: of two that wait, the one of weight 2 gets twice as many."""
    group: str | None = None
    """Requests of one group have the same prompt: the later ones share the blocks of the first."""
    cache_salt: str = ""
    """Prefix-cache blocks are shared only between requests of equal salt."""
    grammar: Grammar | None = None
    """The output ends where the grammar does, whatever `min_tokens` and `ignore_eos` say."""
    beam_search: BeamSearch | None = None
    """Requests of one group have one search: each gets one of its texts, the first one the best,
    all at once at the end. Temperature, filters and penalties have no part in it."""
    num_speculative_tokens: int | None = None
    """Tokens that a step may draft for it at most; None: as the engine is set, 0: none."""
    num_written: int = 0
    """So many of the prompt's last tokens are outputs, of which the grammar is to know: the request
    goes on with another one's answer."""
    pooling: Pooling | None = None
    """The prompt's embedding is wanted, and no token: `params` has `max_tokens` 0."""


@dataclass(frozen=True, slots=True)
class Logprob:
    """The log-probability of one position."""

    token_id: int
    logprob: float
    rank: int
    """1 is the most likely token."""
    top: tuple[tuple[int, float], ...]
    """The k most likely (token id, log-probability), best first."""


class Delta(NamedTuple):
    """What one step added to one request.

    (A named tuple, made for every token: a frozen dataclass takes four times as long.)
    """

    request_id: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[Logprob, ...] = ()
    """As long as `token_ids` where log-probabilities were asked for."""
    prompt_logprobs: tuple[Logprob | None, ...] = ()
    """Sent with the first token, for the whole prompt (None for its first token)."""
    finish_reason: FinishReason | None = None
    stop_token_id: int | None = None
    """The token that ended it, where a token did (it is the last of `token_ids`)."""
    num_cached_tokens: int = 0
    """Prompt tokens found in the prefix cache; sent with the first token."""
    error: str | None = None
    """The sentence for the user where `finish_reason` is ERROR or REFUSED."""
    embedding: bytes = b""
    """fp32: the prompt's, as it was pooled, with the last delta of a request that asks for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """A snapshot for the metrics, taken after each step."""

    num_running: int = 0
    num_waiting: int = 0
    num_blocks: int = 0
    num_free_blocks: int = 0
    """Blocks that no request holds (blocks kept only by the prefix cache count as free)."""
    num_preemptions: int = 0
    num_prefix_queries: int = 0
    """Prompt tokens looked up in the prefix cache since the start."""
    num_prefix_hits: int = 0
    num_steps: int = 0
    num_prompt_tokens: int = 0
    num_generated_tokens: int = 0
    num_drafted_tokens: int = 0
    """Guessed by speculative decoding, and computed."""
    num_accepted_tokens: int = 0
    """Of these, the ones that were sampled then."""
    num_restarts: int = 0
    """Of an engine that ended and was started again."""
