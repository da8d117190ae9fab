"""Paged attention of chunks: sequences with several query tokens, after any cached prefix.

A program takes a run of query tokens with all query heads of one key/value head, so keys are read
once a group. Which sequence a program serves it finds in query_starts; the launch depends on the
number of tokens alone. FlashAttention-2's loop (Dao, 2023, arXiv:2307.08691).
"""

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from nimlite.kernels.base import Batch, KVLayout
from nimlite.kernels.triton.attention_decode import FEW, dot_type
from nimlite.kernels.triton.device import Device
from nimlite.kernels.triton.pool import tile_blocks, tile_rows
from nimlite.kernels.triton.softmax import UNSEEN, capped


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillConfig:
    """Block shapes: `rows` of queries (tokens * heads of a group) against `tile` keys."""

    rows: int
    tile: int
    depth: int
    """Tiles on their way from memory while one is computed."""
    num_warps: int

    @classmethod
    def default(cls, layout: KVLayout, device: Device) -> "PrefillConfig":
        """The measured best of an H200, or what fits; before 8.0 Triton has no tensor cores."""
        if device.capability < (8, 0):
            return cls(rows=32, tile=16, depth=1, num_warps=4)
        dim = triton.next_power_of_2(layout.head_dim)
        narrow = layout.dtype.itemsize == 1
        # Hopper's products read keys from shared memory; others hold them in registers
        reads_shared = device.capability[0] == 9
        # two programs an SM; but fp8 keys are widened once a program
        rows = 128 if dim <= 128 and (narrow or not reads_shared) else 64
        tile = 128 if rows == 128 else 64
        tile = tile if dim <= 128 and reads_shared else 32
        tile_bytes = 2 * tile * dim * layout.dtype.itemsize
        depth = 2 if reads_shared and tile < 128 else 1
        while depth > 1 and rows * dim * 2 + (depth + 1) * tile_bytes > device.shared_memory:
            depth -= 1
        return cls(rows=rows, tile=tile, depth=depth, num_warps=rows // 16)


@triton.jit
def _pointers(
    kv_ptr,
    block,
    first,
    kv_head,
    columns,
    NUM_KV_HEADS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    K: tl.constexpr,
    RUNS: tl.constexpr,
    RUN: tl.constexpr,
):
    """To the keys of a tile of one head: [RUNS * RUN, K]."""
    common, run_row = tile_rows(block, first, kv_head, NUM_KV_HEADS, BLOCK_SIZE, 1, RUNS, RUN)
    if RUNS == 1:
        rows = tl.arange(0, RUN)
    else:
        rows = tl.reshape(run_row[:, None] + tl.arange(0, RUN)[None, :], (RUNS * RUN,))
    return kv_ptr + common * K + rows[:, None] * K + columns[None, :]


@triton.jit
def _hidden(s, first, position, WINDOW: tl.constexpr, TILE: tl.constexpr):
    """Scores s [M, TILE] of the keys from `first` on, -inf where a query does not see its key."""
    keys = first + tl.arange(0, TILE)
    visible = keys[None, :] <= position[:, None]
    if WINDOW > 0:
        visible = visible & (keys[None, :] > position[:, None] - WINDOW)
    return tl.where(visible, s, float("-inf"))


@triton.jit(do_not_specialize=["num_sequences"])
def _prefill(
    q_ptr,
    kv_ptr,
    o_ptr,
    query_starts_ptr,
    context_lens_ptr,
    tables_ptr,
    slopes_ptr,
    bias_ptr,
    num_sequences,
    q_stride,
    o_stride,
    table_stride,
    value_offset,
    scale,
    value_scale,
    soft_cap,
    WINDOW: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    CAUSAL: tl.constexpr,
    REACH: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    K: tl.constexpr,
    K_BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    QUERIES: tl.constexpr,
    RUNS: tl.constexpr,
    RUN: tl.constexpr,
    S_BLOCK: tl.constexpr,
    DOT: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    if OVERLAP:
        gdc_launch_dependents()
    TILE: tl.constexpr = RUNS * RUN
    program = tl.program_id(0)
    kv_head = tl.program_id(1)
    s = tl.arange(0, S_BLOCK)
    exists = s < num_sequences
    starts = tl.load(query_starts_ptr + s, mask=exists, other=0)
    lengths = tl.load(query_starts_ptr + s + 1, mask=exists, other=0) - starts
    # sequences with one query belong to the decode kernel
    runs = tl.where(lengths > 1, tl.cdiv(lengths, QUERIES), 0)
    ends = tl.cumsum(runs, axis=0)
    if program >= tl.sum(runs, axis=0):
        if OVERLAP:
            gdc_wait()
        return
    sequence = tl.sum((ends <= program).to(tl.int32), axis=0)
    # the last run sees most keys: first, so that no long one is left at the end
    run = tl.sum(tl.where(s == sequence, ends, 0), axis=0) - 1 - program
    start = tl.load(query_starts_ptr + sequence)
    length = tl.load(query_starts_ptr + sequence + 1) - start
    context = tl.load(context_lens_ptr + sequence)

    rows = tl.arange(0, ROWS)
    columns = tl.arange(0, K_BLOCK)
    token = run * QUERIES + rows // GROUP
    row_mask = (rows < QUERIES * GROUP) & (token < length)
    mask = row_mask[:, None] & (columns < K)[None, :]
    head_columns = (kv_head * GROUP + rows % GROUP)[:, None] * K + columns[None, :]
    query = (start + token).to(tl.int64)[:, None]
    if OVERLAP:
        gdc_wait()
    q = tl.load(q_ptr + query * q_stride + head_columns, mask=mask, other=0.0).to(DOT)
    position = context - length + token
    first_position = context - length + run * QUERIES
    # of the keys that a query, and that any of them, sees
    last = position if CAUSAL else tl.zeros_like(position) + context - 1
    last_position = (tl.minimum(first_position + QUERIES, context) if CAUSAL else context) - 1

    # with a cap or slopes, the factor must wait until after them
    BENT: tl.constexpr = SOFT_CAP or slopes_ptr is not None or bias_ptr is not None
    factor = 1.4426950408889634 if BENT else scale * 1.4426950408889634
    if slopes_ptr is not None:
        slopes = tl.load(slopes_ptr + kv_head * GROUP + rows % GROUP)
    if bias_ptr is not None:
        bias_row = bias_ptr + (kv_head * GROUP + rows % GROUP) * (2 * REACH + 1) + REACH
    first_tile = tl.maximum(first_position - WINDOW + 1, 0) // TILE if WINDOW > 0 else 0
    last_tile = last_position // TILE + 1
    # tiles that every query sees whole
    whole_tiles = 0 if WINDOW > 0 else ((first_position + 1) if CAUSAL else context) // TILE
    table_ptr = tables_ptr + sequence.to(tl.int64) * table_stride
    total = tl.zeros((ROWS,), tl.float32)
    acc = tl.zeros((ROWS, K_BLOCK), tl.float32)
    tile_mask = (columns < K)[None, :]
    block = tile_blocks(table_ptr, first_tile * TILE, context, BLOCK_SIZE, 1, RUNS, RUN)
    maximum = tl.full((ROWS,), UNSEEN, tl.float32)
    for tile in range(first_tile, last_tile):
        first = tile * TILE
        pointers = _pointers(
            kv_ptr, block, first, kv_head, columns, NUM_KV_HEADS, BLOCK_SIZE, K, RUNS, RUN
        )
        block = tile_blocks(table_ptr, first + TILE, context, BLOCK_SIZE, 1, RUNS, RUN)
        k = tl.load(pointers, mask=tile_mask, other=0.0).to(DOT)
        v_mask = (first + tl.arange(0, TILE) < context)[:, None] & tile_mask
        v = tl.load(pointers + value_offset, mask=v_mask, other=0.0).to(DOT)
        sc = tl.dot(q, tl.trans(k))
        if BENT:
            sc *= scale
        if SOFT_CAP:
            sc = capped(sc, soft_cap)
        if slopes_ptr is not None:
            keys = first + tl.arange(0, TILE)
            sc -= slopes[:, None] * (position[:, None] - keys[None, :]).to(tl.float32)
        if bias_ptr is not None:
            distance = position[:, None] - (first + tl.arange(0, TILE))[None, :]
            distance = tl.minimum(tl.maximum(distance, -REACH), REACH)
            sc += tl.load(bias_row[:, None] + distance)
        if tile >= whole_tiles:
            sc = _hidden(sc, first, last, WINDOW, TILE)
        new_maximum = tl.maximum(maximum, tl.max(sc, axis=1))
        p = tl.exp2(sc * factor - (new_maximum * factor)[:, None])
        keep = tl.exp2((maximum - new_maximum) * factor)
        total = total * keep + tl.sum(p, axis=1)
        acc = tl.dot(p.to(DOT), v, acc * keep[:, None])
        maximum = new_maximum

    o = acc * (value_scale / tl.where(row_mask, total, 1.0))[:, None]
    tl.store(o_ptr + query * o_stride + head_columns, o.to(o_ptr.dtype.element_ty), mask=mask)


def attention_prefill(
    qkv_TE: torch.Tensor,
    kv: torch.Tensor,
    batch: Batch,
    layout: KVLayout,
    o_TQ: torch.Tensor,
    scale: float,
    config: PrefillConfig,
    device: Device,
    *,
    max_sequences: int,
    kv_scales: tuple[float, float] = (1.0, 1.0),
    window: int = 0,
    soft_cap: float = 0.0,
    slopes_H: torch.Tensor | None = None,
    bias_HP: torch.Tensor | None = None,
    causal: bool = True,
) -> None:
    """Write o_T(H*K) of the sequences with two query tokens or more; other rows stay as they are.

    `window`, `soft_cap`, `slopes_H` and `bias_HP` as in `attention_decode`; not `causal`: all
    queries see the whole context. `max_sequences` (what the batch
    may grow to) fixes the compiled variant.
    """
    dim = layout.head_dim
    num_tokens, num_sequences = len(qkv_TE), len(batch.context_lens_S)
    group = o_TQ.shape[1] // dim // layout.num_kv_heads
    rows = max(config.rows, triton.next_power_of_2(group))
    queries = rows // group
    run = math.gcd(config.tile, layout.block_size)
    # each such sequence has one token more than its share of num_sequences
    num_runs = triton.cdiv(num_tokens, queries) + min(num_sequences, num_tokens - num_sequences)
    _prefill[(num_runs, layout.num_kv_heads)](
        qkv_TE,
        kv,
        o_TQ,
        batch.query_starts_S1,
        batch.context_lens_S,
        batch.block_tables_SB,
        slopes_H,
        bias_HP,
        num_sequences,
        qkv_TE.stride(0),
        o_TQ.stride(0),
        batch.block_tables_SB.stride(0),
        kv.stride(0),
        scale * kv_scales[0],
        kv_scales[1],
        soft_cap,
        WINDOW=window,
        SOFT_CAP=soft_cap > 0,
        CAUSAL=causal,
        REACH=0 if bias_HP is None else bias_HP.shape[1] // 2,
        NUM_KV_HEADS=layout.num_kv_heads,
        GROUP=group,
        BLOCK_SIZE=layout.block_size,
        K=dim,
        K_BLOCK=triton.next_power_of_2(dim),
        ROWS=rows,
        QUERIES=queries,
        RUNS=config.tile // run,
        RUN=run,
        S_BLOCK=FEW if num_sequences <= FEW else triton.next_power_of_2(max_sequences),
        DOT=dot_type(kv.dtype),
        OVERLAP=device.overlaps_launches,
        num_warps=config.num_warps,
        num_stages=config.depth + 1,
        **device.launch_options,
    )
