"""What the scheduler asks of the runner for one step, and what comes back. No torch.

Steps run on the device in the order of their plans, whatever the host does meanwhile. The scheduler
counts on it: a block may pass from one sequence to another while a step that used it is in flight.
"""

from dataclasses import dataclass
from typing import NamedTuple

from nimlite.engine.request import Logprob
from nimlite.engine.sequence import Sequence


class ScheduledChunk(NamedTuple):
    """`num_tokens` tokens of one sequence, from position `start` on, to be computed in this step.

    A named tuple, for a thousand are made in a step: a frozen dataclass takes three times as long.
    """

    sequence: Sequence
    start: int
    num_tokens: int
    num_logit_rows: int
    """The last so many tokens need logits: 0, 1 where it samples, all for `prompt_logprobs`."""
    samples: bool
    """True where the chunk reaches the sequence's end, so that a token is sampled after it."""
    output_index: int
    """Position of the sampled token among the outputs: it seeds the random number, and below
    `min_tokens` the sampler masks `sequence.stop_token_ids`."""
    block_table: list[int]
    """The sequence's own list, not a copy: read it up to the chunk's end, later steps append."""


class BlockCopy(NamedTuple):
    """Copy-on-write: copy the whole block before the step computes."""

    source: int
    target: int


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step: decodes (chunks of one token) first, then prefill chunks.

    A token at a position not yet in `sequence.token_ids` was sampled by the step before and is
    still on the device; its chunk is a decode.
    """

    step: int
    chunks: tuple[ScheduledChunk, ...]
    copies: tuple[BlockCopy, ...]
    """No target is a source or another's target, so they may run in any order or at once."""
    num_tokens: int


class SampledToken(NamedTuple):
    """The token sampled after one chunk with `samples`."""

    token_id: int
    logprob: Logprob | None = None
    error: str | None = None
    """Why none could be sampled: the sequence is to be refused with this sentence."""


@dataclass(frozen=True, slots=True)
class StepOutput:
    """One entry a chunk of the plan, in its order; None where the chunk samples nothing."""

    sampled: tuple[SampledToken | None, ...]
    prompt_logprobs: tuple[tuple[Logprob, ...], ...]
    """One entry a chunk: the log-probabilities of the tokens at positions start + 1 … start +
    num_tokens that belong to the prompt (empty where not asked for)."""
