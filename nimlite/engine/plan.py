"""What the scheduler asks of the runner for one step, and what comes back. No torch."""

from dataclasses import dataclass

from nimlite.engine.request import Logprob
from nimlite.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class ScheduledChunk:
    """`num_tokens` tokens of one sequence, from position `start` on, to be computed in this step."""

    sequence: Sequence
    start: int
    num_tokens: int
    samples: bool
    """True where the chunk reaches the sequence's end, so that a token is sampled after it."""
    output_index: int
    """Position of the sampled token among the outputs (seeds the random number)."""
    block_table: tuple[int, ...]
    """Block ids as they stood when the step was scheduled."""


@dataclass(frozen=True, slots=True)
class BlockCopy:
    """Copy-on-write: copy the whole block before the step computes."""

    source: int
    target: int


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step: decodes (chunks of one token) and prefill chunks, in any mix."""

    step: int
    chunks: tuple[ScheduledChunk, ...]
    copies: tuple[BlockCopy, ...]

    @property
    def num_tokens(self) -> int:
        return sum(chunk.num_tokens for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class SampledToken:
    """The token sampled after one chunk with `samples`."""

    token_id: int
    logprob: Logprob | None = None


@dataclass(frozen=True, slots=True)
class StepOutput:
    """One entry a chunk of the plan, in its order; None where the chunk samples nothing."""

    sampled: tuple[SampledToken | None, ...]
    prompt_logprobs: tuple[tuple[Logprob, ...], ...]
    """One entry a chunk: the log-probabilities of the tokens at positions start+1 … start+num_tokens that belong to the prompt
    (empty where not asked for)."""
