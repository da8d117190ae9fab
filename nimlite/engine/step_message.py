"""What other ranks must know of a step: int32 numbers, and of block tables only what is new.

Seven counts: tokens, sequences, rows, sampled rows, whether it pools, copies, updates of tables.
Behind them the arrays of `BatchBuffers` as far as they are used, the copies as pairs, the updates
as (row, first, end), and the blocks of each update.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from nimlite.engine.batch import BatchLimits, HostArrays, buffer_size
from nimlite.engine.plan import StepPlan
from nimlite.engine.sequence import Sequence
from nimlite.kernels.base import Counts

_TOKENS = ("token_ids_T", "sources_T", "positions_T", "slots_T")
_NUM_COUNTS = 7


class StepEncoder:
    """Remembers which tables the others know."""

    def __init__(self, limits: BatchLimits) -> None:
        flat = torch.zeros(buffer_size(limits), dtype=torch.int32)
        self._arrays = HostArrays(limits, flat, tells_updates=True)

    def encode(self, plan: StepPlan, sampled_rows: Mapping[Sequence, int]) -> np.ndarray:
        """The message; `sampled_rows` as for `BatchBuffers.fill`."""
        self._arrays.updates.clear()
        counts = self._arrays.fill(plan, sampled_rows)
        arrays, updates = self._arrays.arrays, self._arrays.updates
        num_sampled = sum(1 + len(chunk.drafts) for chunk in plan.chunks if chunk.samples)
        head = [counts.num_tokens, counts.num_sequences, counts.num_rows, num_sampled]
        head += [plan.pools, len(plan.copies), len(updates)]
        tables = arrays["block_tables_SB"]
        return np.concatenate(
            [
                np.array(head, np.int32),
                *(arrays[name][: counts.num_tokens] for name in _TOKENS),
                arrays["logit_rows_R"][: counts.num_rows],
                arrays["query_starts_S1"][: counts.num_sequences + 1],
                arrays["context_lens_S"][: counts.num_sequences],
                np.array(plan.copies, np.int32).reshape(-1),
                np.array(updates, np.int32).reshape(-1),
                *(tables[row, first:end] for row, first, end in updates),
            ],
            dtype=np.int32,
            casting="unsafe",
        )


@dataclass(frozen=True, slots=True)
class DecodedStep:
    """A message that was laid into the buffers."""

    counts: Counts
    num_sampled: int
    pools: bool
    """Whether hidden states of all tokens are wanted."""
    copies: np.ndarray
    """Pairs of blocks, source and target."""


def decode(message: np.ndarray, arrays: Mapping[str, np.ndarray]) -> DecodedStep:
    """Write a message into the arrays of `BatchBuffers`."""
    tokens, sequences, rows, num_sampled, pools, copies, updates = message[:_NUM_COUNTS].tolist()
    begin = _NUM_COUNTS

    def take(count: int) -> np.ndarray:
        nonlocal begin
        begin += count
        return message[begin - count : begin]

    for name in _TOKENS:
        arrays[name][:tokens] = take(tokens)
    arrays["logit_rows_R"][:rows] = take(rows)
    arrays["query_starts_S1"][: sequences + 1] = take(sequences + 1)
    arrays["context_lens_S"][:sequences] = take(sequences)
    pairs = take(2 * copies).reshape(-1, 2)
    for row, first, end in take(3 * updates).reshape(-1, 3).tolist():
        arrays["block_tables_SB"][row, first:end] = take(end - first)
    return DecodedStep(Counts(tokens, sequences, rows), num_sampled, bool(pools), pairs)
