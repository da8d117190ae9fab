"""A step's plan as flat int32 arrays in static buffers: what a recorded graph reads."""

from dataclasses import dataclass

import torch

from nimlite.engine.plan import StepPlan
from nimlite.kernels.base import Batch, Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """The largest step that the buffers hold."""

    max_tokens: int
    max_sequences: int
    max_logit_rows: int
    max_blocks: int
    """Blocks of one sequence."""
    block_size: int


class BatchBuffers:
    """The static buffers of `Batch`, filled anew for each step."""

    def __init__(self, limits: BatchLimits) -> None:
        self.limits = limits

        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.int32)

        self.batch = Batch(
            token_ids_T=zeros(limits.max_tokens),
            positions_T=zeros(limits.max_tokens),
            slots_T=zeros(limits.max_tokens),
            query_starts_S1=zeros(limits.max_sequences + 1),
            context_lens_S=zeros(limits.max_sequences),
            block_tables_SB=zeros(limits.max_sequences, limits.max_blocks),
            logit_rows_R=zeros(limits.max_logit_rows),
        )
        # numpy views of the same memory: writing a slice costs a fraction of torch's dispatch
        self._token_ids = self.batch.token_ids_T.numpy()
        self._positions = self.batch.positions_T.numpy()
        self._slots = self.batch.slots_T.numpy()
        self._query_starts = self.batch.query_starts_S1.numpy()
        self._context_lens = self.batch.context_lens_S.numpy()
        self._block_tables = self.batch.block_tables_SB.numpy()
        self._logit_rows = self.batch.logit_rows_R.numpy()

    def fill(self, plan: StepPlan) -> Counts:
        """Lay the plan's chunks side by side. The rows whose logits are wanted follow the chunks'
        order."""
        token_ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        rows: list[int] = []
        size = self.limits.block_size
        for index, chunk in enumerate(plan.chunks):
            start, end = chunk.start, chunk.start + chunk.num_tokens
            table = chunk.block_table
            token_ids += chunk.sequence.token_ids[start:end]
            positions += range(start, end)
            slots += [table[p // size] * size + p % size for p in range(start, end)]
            rows += range(len(token_ids) - chunk.num_logit_rows, len(token_ids))
            num_blocks = -(-end // size)
            self._block_tables[index, :num_blocks] = table[:num_blocks]
            self._query_starts[index + 1] = len(token_ids)
            self._context_lens[index] = end
        self._token_ids[: len(token_ids)] = token_ids
        self._positions[: len(positions)] = positions
        self._slots[: len(slots)] = slots
        self._logit_rows[: len(rows)] = rows
        return Counts(len(token_ids), len(plan.chunks), len(rows))
