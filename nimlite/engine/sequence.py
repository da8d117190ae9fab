"""One request's state inside the engine."""

import enum
from typing import TYPE_CHECKING

import numpy as np

from nimlite.engine.accounts import Account
from nimlite.engine.request import Delta, FinishReason, Logprob, Request
from nimlite.models.embedding import Pooling

if TYPE_CHECKING:
    from nimlite.engine.beam_group import BeamGroup
    from nimlite.engine.plan import SampledToken, ScheduledChunk
    from nimlite.engine.speculation import Drafts

PRIORITY_SPAN = 1024
"""How many later arrivals one level of priority outweighs: finite, so that nobody waits for ever
behind a stream of more urgent requests."""
_PRIORITY_TOKENS = 256 * PRIORITY_SPAN
"""Likewise between clients: how many tokens more than another one a client with more urgent
requests gets, before the other one's turn comes."""

Rank = tuple[int, float]
"""Lower runs first. Unique: the second number is the arrival."""


class SequenceStatus(enum.Enum):
    """Where a sequence stands: only a running one holds blocks."""

    WAITING = enum.auto()
    RUNNING = enum.auto()
    PREEMPTED = enum.auto()
    """Waiting again: its blocks were taken away, so its tokens are to be computed once more."""
    FINISHED = enum.auto()


class Sequence:
    """Tokens, progress and blocks of one request. Only the scheduler writes to it.

    All of its scheduling follows from one inequality, `num_computed_tokens < num_tokens`: a prompt,
    a chunk of it, a decode and a recompute after preemption differ only in how large the gap is.
    """

    __slots__ = (
        "account",
        "beams",
        "block_hashes",
        "block_table",
        "drafts",
        "end_token_ids",
        "followers",
        "max_num_tokens",
        "num_cached_tokens",
        "num_computed_tokens",
        "num_drafted",
        "num_pending",
        "num_preemptions",
        "num_prompt_tokens",
        "num_slid",
        "pooled",
        "pooling",
        "prompt_logprobs",
        "rank",
        "request",
        "source",
        "source_table",
        "source_token_ids",
        "status",
        "stop_token_ids",
        "token_ids",
    )

    def __init__(
        self,
        request: Request,
        *,
        arrival: int,
        eos_token_ids: frozenset[int],
        account: Account | None = None,
        decoder_prompt: tuple[int, ...] = (),
    ) -> None:
        """`decoder_prompt`: where an encoder reads the prompt, what its own text begins with."""
        params = request.params
        self.request = request
        self.status = SequenceStatus.WAITING
        self.rank: Rank = (arrival + request.priority * PRIORITY_SPAN, arrival)
        """Its place among its client's sequences, where the lowest is admitted first, and among
        all that run, where the lowest is preempted last."""
        self.account = account or Account()
        self.source_token_ids = request.prompt_token_ids if decoder_prompt else ()
        """What an encoder reads."""
        self.source_table: list[int] = []
        """The blocks of what the decoder keeps of it. Only ever replaced by a new list."""
        self.token_ids = list(decoder_prompt or request.prompt_token_ids)
        """Prompt and outputs, as far as they are known on the host."""
        self.num_prompt_tokens = len(self.token_ids)
        self.max_num_tokens = self.num_prompt_tokens + params.max_tokens
        self.num_computed_tokens = 0
        """Tokens whose keys and values lie in the pool once every scheduled step has run."""
        self.num_pending = 0
        """Tokens that steps in flight are sampling: on the device, not yet in `token_ids`."""
        self.num_drafted = 0
        """Guessed tokens behind them that a step in flight computes: they may turn out wrong."""
        self.beams: BeamGroup | None = None
        """The search that it is a beam of."""
        self.drafts: Drafts | None = None
        """The speculator's memory of it."""
        self.block_table: list[int] = []
        """Only ever appended to, or replaced by a new list: what a plan saw of it stays true."""
        self.num_slid = 0
        """Blocks at the table's beginning that lie before every window: they are not held any more,
        and what they are in the table is not read."""
        self.block_hashes: list[bytes] = []
        """The prefix cache's hashes of the first full blocks, as far as they were ever needed."""
        self.num_cached_tokens = 0
        self.num_preemptions = 0
        self.prompt_logprobs: list[Logprob] = []
        """Entry i is of the token at position i + 1."""
        self.pooling = request.pooling
        self.pooled: list[np.ndarray] = []
        """What the chunks so far add to its embedding: fp32, of the hidden size."""
        self.followers: list[Sequence] = []
        """Of the same group, waiting for this one to compute their prompt."""
        self.source: Sequence | None = None
        """The leader whose computed prompt this follower may share."""
        eos = frozenset[int]() if params.ignore_eos else eos_token_ids
        self.stop_token_ids = eos.union(params.stop_token_ids)
        """They end it from output index `min_tokens` on; the sampler masks them before."""
        self.end_token_ids = frozenset[int]() if request.grammar is None else eos_token_ids
        """They end it at any time: a grammar lets them pass only where it may end, and where
        nothing else can follow it does so whatever the parameters say."""

    @property
    def turn(self) -> tuple[float, Rank]:
        """Its place among those who wait, of all clients: the lowest is next."""
        return self.account.served + self.request.priority * _PRIORITY_TOKENS, self.rank

    @property
    def num_tokens(self) -> int:
        """All tokens, the pending ones included."""
        return len(self.token_ids) + self.num_pending

    @property
    def held_blocks(self) -> list[int]:
        """Of its table."""
        return self.block_table[self.num_slid :] if self.num_slid else self.block_table

    @property
    def num_slots(self) -> int:
        """Sequences that run once it does: its search's beams."""
        return 1 if self.beams is None else self.beams.width

    @property
    def awaits_update(self) -> bool:
        """Whether what comes next depends on what a step in flight samples, beyond one token."""
        return self.num_drafted > 0 or self.beams is not None

    @property
    def needs_prompt_logits(self) -> bool:
        """True while log-probabilities of its prompt are still to be computed."""
        return (
            self.request.params.prompt_logprobs is not None
            and len(self.prompt_logprobs) < self.num_prompt_tokens - 1
        )

    @property
    def needs_every_token(self) -> bool:
        """True where its prompt must be computed even if its keys and values are known."""
        return self.needs_prompt_logits or self.pooling in (Pooling.MEAN, Pooling.CLS)

    def all_prompt_logprobs(self) -> tuple[Logprob | None, ...]:
        """What its first Delta carries: None for the first token, empty where not asked for."""
        if self.request.params.prompt_logprobs is None:
            return ()
        return (None, *self.prompt_logprobs)

    def take(self, sampled: "tuple[SampledToken, ...]") -> Delta:
        """What a step sampled, and what the client gets to see of it: nothing behind the end.

        With `max_tokens` 0 only the prompt was wanted, and the token is dropped. The context length
        needs no rule: the scheduler has checked `max_tokens` against it.
        """
        self.num_pending -= 1
        self.num_drafted = 0
        if sampled[0].error is not None:
            refused = FinishReason.REFUSED
            return Delta(self.request.id, finish_reason=refused, error=sampled[0].error)
        is_first = len(self.token_ids) == self.num_prompt_tokens
        is_wanted = self.request.params.max_tokens > 0
        taken: list[SampledToken] = []
        reason = None if is_wanted else FinishReason.LENGTH
        for token in sampled:
            if reason is not None or token.error is not None:
                break  # an error behind a guess comes up again in the next step
            reason = self._append(token.token_id)
            taken.append(token)
        return Delta(
            request_id=self.request.id,
            token_ids=tuple([token.token_id for token in taken]),
            logprobs=tuple([token.logprob for token in taken if token.logprob is not None]),
            prompt_logprobs=self.all_prompt_logprobs() if is_first else (),
            finish_reason=reason,
            stop_token_id=self.token_ids[-1] if reason is FinishReason.STOP else None,
            num_cached_tokens=self.num_cached_tokens if is_first else 0,
        )

    def take_pooled(self, chunk: "ScheduledChunk", part: np.ndarray | None) -> Delta | None:
        """What a chunk adds to its embedding, which the client gets after the last one."""
        is_last = chunk.start + chunk.num_tokens == self.num_prompt_tokens
        self.num_pending -= is_last
        if self.block_table is not chunk.block_table:
            return None  # it was preempted: all of it comes again
        if chunk.start == 0:
            self.pooled.clear()
        if part is not None:
            self.pooled.append(part)
        if not is_last:
            return None
        total = np.sum(self.pooled, axis=0, dtype=np.float32)
        count = self.num_prompt_tokens if self.pooling is Pooling.MEAN else 1
        return Delta(
            request_id=self.request.id,
            finish_reason=FinishReason.STOP,
            num_cached_tokens=self.num_cached_tokens,
            embedding=(total / np.float32(count)).astype(np.float32).tobytes(),
        )

    def _append(self, token_id: int) -> FinishReason | None:
        """Does it end the sequence, and why?"""
        num_outputs = len(self.token_ids) - self.num_prompt_tokens
        self.token_ids.append(token_id)
        if token_id in self.stop_token_ids and num_outputs >= self.request.params.min_tokens:
            return FinishReason.STOP
        if token_id in self.end_token_ids:
            return FinishReason.STOP
        if len(self.token_ids) >= self.max_num_tokens:
            return FinishReason.LENGTH
        return None

    def __repr__(self) -> str:
        return (
            f"Sequence({self.request.id!r}, {self.status.name}, "
            f"{self.num_computed_tokens}/{self.num_tokens} computed, blocks {self.block_table})"
        )
