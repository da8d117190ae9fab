"""Paged attention of sequences with one query token each.

The context of all sequences, cut into tiles, is one line of work that a fixed number of programs
share evenly, so the launch is the same for any batch and context and can be recorded. A program
meets a sequence's start, middle or end; who finishes a sequence last combines its parts, in the
order of the programs (so results do not depend on timing). The even cut is Stream-K's (Osama et
al., 2023, arXiv:2301.03598), the parts are combined as in Flash-Decoding (Dao et al., 2023).
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from nimlite.kernels.base import Batch, KVLayout
from nimlite.kernels.triton.device import KIB, Device, await_inputs
from nimlite.kernels.triton.pool import token_rows
from nimlite.kernels.triton.softmax import accumulate, scores

_FEW = 64
"""Up to so many sequences, a program reads only so many lengths to find its work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeConfig:
    """How the work is cut."""

    tile: int
    """Tokens a step of the loop."""
    depth: int
    """Tiles on their way from memory while one is computed; shared memory holds them."""
    num_warps: int
    programs_per_sm: int
    min_tiles: int = 2
    """A program takes at least so many tiles: below, combining costs more than it saves."""

    @classmethod
    def default(cls, layout: KVLayout, device: Device) -> "DecodeConfig":
        """Three programs an SM. fp8 tiles are smaller, since widening takes registers."""
        narrow = layout.dtype.itemsize == 1
        tile, depth = (32, 3) if narrow else (64, 2)
        row = 2 * triton.next_power_of_2(layout.head_dim) * layout.dtype.itemsize
        while tile > 16 and 3 * (depth * tile * row + 8 * KIB) > device.shared_memory:
            tile //= 2
        return cls(tile=tile, depth=depth, num_warps=4, programs_per_sm=3)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeWorkspace:
    """Memory for the parts of sequences that several programs share. Launches of one stream may use
    the same."""

    num_programs: int
    """Programs a key/value head."""
    max_sequences: int
    partial: torch.Tensor
    """fp32 [programs, G, 2, heads of a group, K]: sums not yet divided."""
    statistics: torch.Tensor
    """fp32 [programs, G, 2, 2, heads of a group]: maximum and total."""
    arrivals: torch.Tensor
    """int32 [sequences, G], zero between launches."""

    @classmethod
    def allocate(
        cls,
        layout: KVLayout,
        num_heads: int,
        max_sequences: int,
        config: DecodeConfig,
        device: Device,
        where: torch.device,
    ) -> "DecodeWorkspace":
        groups = layout.num_kv_heads
        programs = max(1, device.num_sms * config.programs_per_sm // groups)
        shape = (programs, groups, 2, num_heads // groups)
        return cls(
            num_programs=programs,
            max_sequences=max_sequences,
            partial=torch.empty((*shape, layout.head_dim), dtype=torch.float32, device=where),
            statistics=torch.empty((*shape, 2), dtype=torch.float32, device=where),
            arrivals=torch.zeros((max_sequences, groups), dtype=torch.int32, device=where),
        )


@triton.jit
def _combine(
    partial_ptr,
    statistics_ptr,
    first_program,
    last_program,
    begin,
    share,
    kv_head,
    group,
    group_mask,
    columns,
    mask,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_BLOCK: tl.constexpr,
    K: tl.constexpr,
    K_BLOCK: tl.constexpr,
):
    """Sum and total of one sequence's parts, over a common maximum."""
    maximum = tl.full((GROUP_BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((GROUP_BLOCK,), tl.float32)
    acc = tl.zeros((GROUP_BLOCK, K_BLOCK), tl.float32)
    for program in tl.range(first_program, last_program + 1, num_stages=2):
        is_last_part = program * share < begin
        part = (program * NUM_KV_HEADS + kv_head) * 2 + is_last_part.to(tl.int32)
        # other SMs wrote these: not from this SM's L1
        statistics = statistics_ptr + part * 2 * GROUP + group
        m = tl.load(statistics, mask=group_mask, other=0.0, cache_modifier=".cg")
        t = tl.load(statistics + GROUP, mask=group_mask, other=1.0, cache_modifier=".cg")
        rows = partial_ptr + (part * GROUP + group)[:, None] * K + columns[None, :]
        a = tl.load(rows, mask=mask, other=0.0, cache_modifier=".cg")
        new_maximum = tl.maximum(maximum, m)
        keep, take = tl.exp2(maximum - new_maximum), tl.exp2(m - new_maximum)
        total = total * keep + t * take
        acc = acc * keep[:, None] + a * take[:, None]
        maximum = new_maximum
    return total, acc


@triton.jit(do_not_specialize=["num_sequences"])
def _decode(
    q_ptr,
    kv_ptr,
    o_ptr,
    partial_ptr,
    statistics_ptr,
    arrivals_ptr,
    query_starts_ptr,
    context_lens_ptr,
    tables_ptr,
    num_sequences,
    q_stride,
    o_stride,
    table_stride,
    value_offset,
    scale,
    value_scale,
    soft_cap,
    min_tiles,
    WINDOW: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_BLOCK: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    K: tl.constexpr,
    K_BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    S_BLOCK: tl.constexpr,
    DOT: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    await_inputs(OVERLAP)
    kv_head = tl.program_id(0)
    program = tl.program_id(1)
    s = tl.arange(0, S_BLOCK)
    exists = s < num_sequences
    contexts = tl.load(context_lens_ptr + s, mask=exists, other=0)
    queries = tl.load(query_starts_ptr + s + 1, mask=exists, other=0)
    queries -= tl.load(query_starts_ptr + s, mask=exists, other=0)
    contexts = tl.where(queries == 1, contexts, 0)
    tiles = tl.cdiv(contexts, TILE)
    if WINDOW > 0:
        tiles -= tl.maximum(contexts - WINDOW, 0) // TILE
    ends = tl.cumsum(tiles, axis=0)
    num_units = tl.sum(tiles, axis=0)
    share = tl.maximum(tl.cdiv(num_units, tl.num_programs(1)), min_tiles)
    unit = program * share
    stop = tl.minimum(unit + share, num_units)
    sequence = tl.sum((ends <= unit).to(tl.int32), axis=0)
    begin = tl.sum(tl.where(s == sequence, ends - tiles, 0), axis=0)

    group = tl.arange(0, GROUP_BLOCK)
    columns = tl.arange(0, K_BLOCK)
    group_mask = group < GROUP
    mask = group_mask[:, None] & (columns < K)[None, :]
    head_columns = (kv_head * GROUP + group)[:, None] * K + columns[None, :]
    while unit < stop:
        query = tl.load(query_starts_ptr + sequence)
        num_queries = tl.load(query_starts_ptr + sequence + 1) - query
        context = tl.where(num_queries == 1, tl.load(context_lens_ptr + sequence), 0)
        visible_from = tl.maximum(context - WINDOW, 0) if WINDOW > 0 else 0
        first_tile = visible_from // TILE
        end = begin + tl.cdiv(context, TILE) - first_tile
        segment_end = tl.minimum(end, stop)
        query_row = q_ptr + query.to(tl.int64) * q_stride
        q = tl.load(query_row + head_columns, mask=mask, other=0.0).to(DOT)
        table_ptr = tables_ptr + sequence.to(tl.int64) * table_stride
        maximum = tl.full((GROUP_BLOCK,), float("-inf"), tl.float32)
        total = tl.zeros((GROUP_BLOCK,), tl.float32)
        acc = tl.zeros((GROUP_BLOCK, K_BLOCK), tl.float32)
        for u in range(unit, segment_end):
            first = (first_tile + u - begin) * TILE
            rows = token_rows(table_ptr, first, kv_head, context, NUM_KV_HEADS, BLOCK_SIZE, TILE)
            tokens = first + tl.arange(0, TILE)
            # rows past the context may hold even NaN, which a weight of zero would not stop
            tile_mask = (tokens < context)[:, None] & (columns < K)[None, :]
            pointers = kv_ptr + rows[:, None] * K + columns[None, :]
            k = tl.load(pointers, mask=tile_mask, other=0.0).to(DOT)
            sc = scores(q, k, scale, soft_cap, SOFT_CAP)
            visible = (tokens < context) & (tokens >= visible_from)
            sc = tl.where(visible[None, :], sc, float("-inf"))
            v = tl.load(pointers + value_offset, mask=tile_mask, other=0.0).to(DOT)
            maximum, total, acc = accumulate(sc, v, maximum, total, acc)

        writes = segment_end > unit
        if writes & ((unit > begin) | (segment_end < end)):
            is_last_part = program * share < begin
            part = (program * NUM_KV_HEADS + kv_head) * 2 + is_last_part.to(tl.int32)
            statistics = statistics_ptr + part * 2 * GROUP + group
            tl.store(statistics, maximum, mask=group_mask)
            tl.store(statistics + GROUP, total, mask=group_mask)
            part_rows = partial_ptr + (part * GROUP + group)[:, None] * K + columns[None, :]
            tl.store(part_rows, acc, mask=mask)
            tl.debug_barrier()
            arrival_ptr = arrivals_ptr + sequence * NUM_KV_HEADS + kv_head
            arrived = tl.atomic_add(arrival_ptr, 1, sem="acq_rel")
            first_program = begin // share
            last_program = (end - 1) // share
            writes = arrived == last_program - first_program
            if writes:
                tl.store(arrival_ptr, 0)
                total, acc = _combine(
                    partial_ptr,
                    statistics_ptr,
                    first_program,
                    last_program,
                    begin,
                    share,
                    kv_head,
                    group,
                    group_mask,
                    columns,
                    mask,
                    NUM_KV_HEADS,
                    GROUP,
                    GROUP_BLOCK,
                    K,
                    K_BLOCK,
                )
        if writes:
            o = acc * (value_scale / total)[:, None]
            o_row = o_ptr + query.to(tl.int64) * o_stride
            tl.store(o_row + head_columns, o.to(o_ptr.dtype.element_ty), mask=mask)
        unit = segment_end
        begin = end
        sequence += 1


def attention_decode(
    qkv_TE: torch.Tensor,
    kv: torch.Tensor,
    batch: Batch,
    layout: KVLayout,
    o_TQ: torch.Tensor,
    scale: float,
    config: DecodeConfig,
    workspace: DecodeWorkspace,
    device: Device,
    *,
    kv_scales: tuple[float, float] = (1.0, 1.0),
    window: int = 0,
    soft_cap: float = 0.0,
) -> None:
    """Write o_T(H*K) of the sequences with one query token and a context; other rows stay as they
    are.

    `window` (0: none) is how many tokens a query sees, itself included; scores are capped to
    ± `soft_cap` (0: not at all).
    """
    dim = layout.head_dim
    num_heads = o_TQ.shape[1] // dim
    num_sequences = len(batch.context_lens_S)
    assert num_sequences <= workspace.max_sequences and kv.is_contiguous()
    group = num_heads // layout.num_kv_heads
    few = num_sequences <= _FEW
    _decode[(layout.num_kv_heads, workspace.num_programs)](
        qkv_TE,
        kv,
        o_TQ,
        workspace.partial,
        workspace.statistics,
        workspace.arrivals,
        batch.query_starts_S1,
        batch.context_lens_S,
        batch.block_tables_SB,
        num_sequences,
        qkv_TE.stride(0),
        o_TQ.stride(0),
        batch.block_tables_SB.stride(0),
        kv.stride(0),
        scale * kv_scales[0],
        kv_scales[1],
        soft_cap,
        config.min_tiles,
        WINDOW=window,
        SOFT_CAP=soft_cap > 0,
        NUM_KV_HEADS=layout.num_kv_heads,
        GROUP=group,
        GROUP_BLOCK=max(16, triton.next_power_of_2(group)),
        BLOCK_SIZE=layout.block_size,
        K=dim,
        K_BLOCK=triton.next_power_of_2(dim),
        TILE=config.tile,
        S_BLOCK=_FEW if few else triton.next_power_of_2(workspace.max_sequences),
        DOT=dot_type(kv.dtype),
        OVERLAP=device.overlaps_launches,
        num_warps=config.num_warps,
        # Triton gives a stage to each of block table, keys and their use
        num_stages=2 * config.depth + 1,
        **device.launch_options,
    )


def dot_type(kv_dtype: torch.dtype) -> tl.dtype:
    """What tensor cores multiply: the pool's dtype, and fp16 for fp8 (which it holds exactly)."""
    return {
        torch.bfloat16: tl.bfloat16,
        torch.float16: tl.float16,
        torch.float32: tl.float32,
        torch.float8_e4m3fn: tl.float16,
    }[kv_dtype]
