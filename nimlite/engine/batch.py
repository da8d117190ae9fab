"""A step's plan as flat int32 arrays in static buffers: what a captured forward reads."""

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Source
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

import numpy as np
import torch

from nimlite.engine.plan import StepPlan
from nimlite.engine.sequence import Sequence
from nimlite.kernels.base import Batch, Counts

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """The largest step that the buffers hold."""

    max_tokens: int
    max_sequences: int
    max_logit_rows: int
    max_blocks: int
    """Blocks of one sequence."""
    block_size: int
    max_source_blocks: int = 0
    """Blocks of what an encoder reads for one sequence; 0: there is no encoder."""


class BatchBuffers:
    """The static buffers of `Batch`, filled anew for each step.

    On the CPU they are written in place. For a GPU the host writes pinned memory that is copied
    over in one piece; two of them take turns, for the step in flight may still read the other.
    """

    def __init__(self, limits: BatchLimits, device: torch.device | str = "cpu") -> None:
        self._flat = torch.zeros(buffer_size(limits), dtype=torch.int32, device=device)
        if self._flat.device.type == "cpu":
            self._hosts = [HostArrays(limits, self._flat)]
        else:
            pinned = [
                torch.zeros(buffer_size(limits), dtype=torch.int32).pin_memory() for _ in range(2)
            ]
            self._hosts = [HostArrays(limits, flat) for flat in pinned]
        if self._flat.device.type == "cpu":
            self._told = self._flat
        else:
            self._told = torch.zeros(buffer_size(limits), dtype=torch.int32)
        self._told_arrays = {n: array.numpy() for n, array in _split(limits, self._told).items()}
        arrays = _split(limits, self._flat)
        self.sources_T = arrays.pop("sources_T")
        """For a token that the step before sampled and that is still on the device: its row in
        that step's output. Else -1."""
        self.batch = Batch(**arrays)

    def fill(self, plan: StepPlan, sampled_rows: Mapping[Sequence, int]) -> Counts:
        """Lay the plan's chunks side by side; the rows whose logits are wanted keep their order.

        `sampled_rows`: the row of each sequence in the output of the step before, where that is
        still on the device.
        """
        self._hosts.reverse()
        counts = self._hosts[0].fill(plan, sampled_rows)
        if self._hosts[0].flat is not self._flat:
            self._flat.copy_(self._hosts[0].flat, non_blocking=True)
        return counts

    def load(self, decode: Callable[[Mapping[str, np.ndarray]], T]) -> T:
        """Instead of `fill`: let `decode` write a step into the arrays, which are as the step
        before left them."""
        decoded = decode(self._told_arrays)
        if self._told is not self._flat:
            self._hosts.reverse()
            self._hosts[0].flat.copy_(self._told)
            self._flat.copy_(self._hosts[0].flat, non_blocking=True)
        return decoded


class HostArrays:
    """The host's copy of the buffers, as numpy views: writing one costs a fraction of torch's
    dispatch."""

    def __init__(
        self, limits: BatchLimits, flat: torch.Tensor, *, tells_updates: bool = False
    ) -> None:
        """`tells_updates`: to keep `updates`."""
        self.flat = flat
        self._limits = limits
        self._tells_updates = tells_updates
        self.updates: list[tuple[int, int, int]] = []
        """What was written to tables: row, and the bounds of the columns."""
        self.arrays = {name: array.numpy() for name, array in _split(limits, flat).items()}
        self._tables: list[tuple[list[int], int]] = [([], 0)] * limits.max_sequences
        """The table written to each row, and how much of it."""
        self._source_tables: list[list[int]] = [[]] * limits.max_sequences

    def fill(self, plan: StepPlan, sampled_rows: Mapping[Sequence, int]) -> Counts:
        token_ids: list[int] = []
        sources: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        logit_rows: list[int] = []
        query_starts = [0]
        context_lens: list[int] = []
        size = self._limits.block_size
        for chunk in plan.chunks:
            sequence, start, num_tokens, num_logit_rows = chunk[:4]
            end, table = start + num_tokens, chunk.block_table
            if chunk.drafts:
                # Each token as a decode of its own over the same blocks: keys and values of all are
                # there before any attends, and the step stays one that a graph was recorded of.
                for token_id, position in zip(
                    (sequence.token_ids[start], *chunk.drafts), range(start, end), strict=True
                ):
                    self._write_table(len(context_lens), table, position // size + 1)
                    logit_rows.append(len(token_ids))
                    token_ids.append(token_id)
                    sources.append(-1)
                    positions.append(position)
                    slots.append(table[position // size] * size + position % size)
                    query_starts.append(len(token_ids))
                    context_lens.append(position + 1)
                continue
            if num_tokens == 1:  # most are decodes: no ranges for them
                is_known = start < len(sequence.token_ids)
                token_ids.append(sequence.token_ids[start] if is_known else 0)
                sources.append(-1 if is_known else sampled_rows[sequence])
                positions.append(start)
                slots.append(table[start // size] * size + start % size)
            else:
                known = sequence.token_ids[start:end]
                token_ids += known
                sources += [-1] * len(known)
                if len(known) < num_tokens:
                    token_ids.append(0)
                    sources.append(sampled_rows[sequence])
                positions += range(start, end)
                slots += [table[p // size] * size + p % size for p in range(start, end)]
            logit_rows += range(len(token_ids) - num_logit_rows, len(token_ids))
            query_starts.append(len(token_ids))
            self._write_table(len(context_lens), table, -(-end // size))
            context_lens.append(end)
        self._write("token_ids_T", token_ids)
        self._write("sources_T", sources)
        self._write("positions_T", positions)
        self._write("slots_T", slots)
        self._write("logit_rows_R", logit_rows)
        self._write("query_starts_S1", query_starts)
        self._write("context_lens_S", context_lens)
        if self._limits.max_source_blocks:
            self._write_sources([chunk.sequence for chunk in plan.chunks])
        return Counts(len(token_ids), len(context_lens), len(logit_rows))

    def _write(self, name: str, values: list[int]) -> None:
        self.arrays[name][: len(values)] = values

    def _write_sources(self, sequences: list[Sequence]) -> None:
        self._write("cross_lens_S", [len(each.source_token_ids) for each in sequences])
        for row, sequence in enumerate(sequences):
            table = sequence.source_table
            if self._source_tables[row] is not table:
                self.arrays["cross_tables_SB"][row][: len(table)] = table
                self._source_tables[row] = table

    def _write_table(self, row: int, table: list[int], num_blocks: int) -> None:
        """Tables only grow, and a changed one is a new list: mostly there is nothing to write."""
        written, length = self._tables[row]
        if written is not table:
            length = 0
        if num_blocks > length:
            array = self.arrays["block_tables_SB"][row]
            array[length:num_blocks] = table[length:num_blocks]
            if self._tells_updates:
                self.updates.append((row, length, num_blocks))
            self._tables[row] = (table, num_blocks)


def source_batch(
    sources: Source[tuple[Source[int], Source[int]]], block_size: int, device: torch.device
) -> Batch:
    """Of whole texts and the blocks of each, for an encoder to read at once. No logits are wanted.

    They come too seldom for buffers of their own.
    """
    positions = [position for text, _ in sources for position in range(len(text))]
    slots = [
        table[position // block_size] * block_size + position % block_size
        for text, table in sources
        for position in range(len(text))
    ]
    lengths = [len(text) for text, _ in sources]
    # to a multiple, as those of most engines are: kernels are compiled for it
    width = -(-max(len(table) for _, table in sources) // 16) * 16

    def ints(values: Source[int] | list[list[int]]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    return Batch(
        token_ids_T=ints([token for text, _ in sources for token in text]),
        positions_T=ints(positions),
        slots_T=ints(slots),
        query_starts_S1=ints([0, *accumulate(lengths)]),
        context_lens_S=ints(lengths),
        block_tables_SB=ints([[*table, *[0] * (width - len(table))] for _, table in sources]),
        logit_rows_R=ints([]),
    )


def _shapes(limits: BatchLimits) -> dict[str, tuple[int, ...]]:
    sources: dict[str, tuple[int, ...]] = {}
    if limits.max_source_blocks:
        sources["cross_lens_S"] = (limits.max_sequences,)
        sources["cross_tables_SB"] = (limits.max_sequences, limits.max_source_blocks)
    return sources | {
        "token_ids_T": (limits.max_tokens,),
        "sources_T": (limits.max_tokens,),
        "positions_T": (limits.max_tokens,),
        "slots_T": (limits.max_tokens,),
        "query_starts_S1": (limits.max_sequences + 1,),
        "context_lens_S": (limits.max_sequences,),
        "block_tables_SB": (limits.max_sequences, limits.max_blocks),
        "logit_rows_R": (limits.max_logit_rows,),
    }


def _offsets(limits: BatchLimits) -> dict[str, tuple[int, int]]:
    """Begin and end of each array in the flat buffer, at multiples of 64 bytes."""
    offsets, begin = {}, 0
    for name, shape in _shapes(limits).items():
        size = torch.Size(shape).numel()
        offsets[name] = (begin, begin + size)
        begin += -(-size // 16) * 16
    return offsets


def buffer_size(limits: BatchLimits) -> int:
    return max(end for _, end in _offsets(limits).values())


def _split(limits: BatchLimits, flat: torch.Tensor) -> dict[str, torch.Tensor]:
    """Views of the flat buffer by name."""
    shapes = _shapes(limits)
    return {
        name: flat[begin:end].view(shapes[name]) for name, (begin, end) in _offsets(limits).items()
    }
