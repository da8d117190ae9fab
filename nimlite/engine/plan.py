"""What the scheduler asks of the runner for one step, and what comes back. No torch.

Steps run on the device in the order of their plans, whatever the host does meanwhile. The scheduler
counts on it: a block may pass from one sequence to another while a step that used it is in flight.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

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
    drafts: tuple[int, ...] = ()
    """Guessed tokens at the chunk's end, of a decode whose own token is known to the host. Each has
    logits, and what is sampled there counts where all guesses before it were right."""


class BlockCopy(NamedTuple):
    """Copy-on-write: copy the whole block before the step computes."""

    source: int
    target: int


class ScheduledRead(NamedTuple):
    """A prompt for the encoder to read in this step, before the decoder computes."""

    sequence: Sequence
    block_table: list[int]
    """For what the decoder keeps of it."""


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
    pools: bool = False
    """Whether some chunks are of texts to embed."""

    num_drafted: int = 0
    """Of these, guesses."""
    reads: tuple[ScheduledRead, ...] = ()
    """An encoder reads these first; they count for no token of the step."""

    @property
    def is_decode(self) -> bool:
        """Whether it holds nothing but decodes and their drafts."""
        return not self.reads and self.num_tokens == len(self.chunks) + self.num_drafted


class SampledToken(NamedTuple):
    """One token sampled after a chunk with `samples`."""

    token_id: int
    logprob: Logprob | None = None
    error: str | None = None
    """Why none could be sampled: the sequence is to be refused with this sentence."""


@dataclass(frozen=True, slots=True)
class StepOutput:
    """One entry a chunk of the plan, in its order: nothing, or a token; after a chunk with drafts
    a token for each that was right, and the one that came instead of the next."""

    sampled: tuple[tuple[SampledToken, ...], ...]
    prompt_logprobs: tuple[tuple[Logprob, ...], ...]
    """One entry a chunk: the log-probabilities of the tokens at positions start + 1 … start +
    num_tokens that belong to the prompt (empty where not asked for)."""
    pooled: Mapping[Sequence, np.ndarray] = field(default_factory=dict)
    """What its chunk adds to the embedding of a text: fp32, of the hidden size."""
