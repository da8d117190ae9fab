"""Decode steps recorded as CUDA graphs.

A step in which every sequence has one token is padded to the next of some batch sizes and replayed;
any other runs kernel by kernel. The graphs are recorded largest first into one memory pool, so all
of them take as much memory as the largest.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
import triton
import triton.language as tl

from nimlite.kernels.base import Batch, Counts, Forward
from nimlite.kernels.torch_kernels import used_part


def batch_sizes(largest: int) -> list[int]:
    """1, 2, 4, then in steps of at most an eighth of the batch (a power of two, from 8 on), and
    the largest."""
    sizes = {1, 2, 4, largest}
    size = 8
    while size < largest:
        sizes.add(size)
        size += max(8, (1 << size.bit_length() - 1) // 8)
    return sorted(size for size in sizes if size <= largest)


@triton.jit(do_not_specialize=["num_used", "num_used_rows", "size"])
def _pad(
    slots_ptr,
    contexts_ptr,
    cross_ptr,
    rows_ptr,
    num_used,
    num_used_rows,
    size,
    BLOCK: tl.constexpr,
):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    padding = (i >= num_used) & (i < size)
    tl.store(slots_ptr + i, -1, mask=padding)
    tl.store(contexts_ptr + i, 0, mask=padding)
    if cross_ptr is not None:
        tl.store(cross_ptr + i, 0, mask=padding)
    tl.store(rows_ptr + i, 0, mask=(i >= num_used_rows) & (i < size))


def pad(batch: Batch, counts: Counts, size: int) -> None:
    """Make sequences from the count on up to `size` write nothing and read nothing."""
    block = 256
    _pad[(triton.cdiv(size, block),)](
        batch.slots_T,
        batch.context_lens_S,
        batch.cross_lens_S,
        batch.logit_rows_R,
        counts.num_sequences,
        counts.num_rows,
        size,
        BLOCK=block,
    )


class DecodeGraphs:
    """`forward` over the static buffers of `batch`, recorded for some batch sizes."""

    def __init__(self, forward: Forward, batch: Batch, sizes: Iterable[int]) -> None:
        self._forward = forward
        self._batch = batch
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._logits: torch.Tensor | None = None
        # every graph reads its beginning, so it must live as long as they do
        self._starts_S1 = torch.arange(
            len(batch.query_starts_S1), dtype=torch.int32, device=batch.query_starts_S1.device
        )
        pool = torch.cuda.graph_pool_handle()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for size in sorted(sizes, reverse=True):
                self._graphs[size] = self._record(size, pool)
        torch.cuda.current_stream().wait_stream(stream)

    def __call__(self, counts: Counts) -> torch.Tensor:
        """Logits of the step that the buffers hold, valid until the next call."""
        if counts.num_tokens != counts.num_sequences or counts.num_rows > counts.num_tokens:
            return self._forward(used_part(self._batch, counts))
        size = min((s for s in self._graphs if s >= counts.num_tokens), default=None)
        if size is None:
            return self._forward(used_part(self._batch, counts))
        pad(self._batch, counts, size)
        self._graphs[size].replay()
        assert self._logits is not None
        return self._logits[: counts.num_rows]

    def _record(self, size: int, pool: Any) -> torch.cuda.CUDAGraph:
        """Run once to compile and to choose, then record."""
        part = used_part(self._batch, Counts(size, size, size))
        pad(self._batch, Counts(0, 0, 0), size)
        part = dataclasses.replace(part, query_starts_S1=self._starts_S1[: size + 1])
        self._forward(part)
        torch.cuda.current_stream().synchronize()
        graph = torch.cuda.CUDAGraph()
        # other threads may use the device meanwhile
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        logits_RV = self._forward(part)
        if self._logits is None:
            self._logits = logits_RV
        else:
            # not kept: its memory serves the next graph
            self._logits[:size].copy_(logits_RV)
        graph.capture_end()
        return graph
