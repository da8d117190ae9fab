"""The kernel of `attention_decode`.

The context of all sequences, cut into tiles, is one line of work that a fixed number of programs
share evenly, so the launch is the same for any batch and context and can be recorded. A program
meets a sequence's start, middle or end; who finishes a sequence last combines its parts, in the
order of the programs (so results do not depend on timing). The even cut is Stream-K's (Osama et
al., 2023, arXiv:2301.03598), the parts are combined as in Flash-Decoding (Dao et al., 2023).

Each warp works alone on a run of a tile's tokens in one key/value head (a batched product gives
every warp a matrix of its own), so nothing is exchanged between warps until a sequence ends.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from nimlite.kernels.triton.pool import tile_blocks, tile_rows, widen_pairs
from nimlite.kernels.triton.softmax import UNSEEN, capped


@triton.jit
def _sum_runs(acc, HEADS: tl.constexpr, RUNS: tl.constexpr, ROW: tl.constexpr, N: tl.constexpr):
    """[HEADS * RUNS, ROW, N], one matrix a warp, summed over the runs: [HEADS, ROW, N].

    Split and add exchanges whole tensors once; a reduction over warps would go through shuffles.
    """
    if RUNS == 1:
        return acc
    else:
        tl.static_assert(RUNS <= 4)
        runs = tl.permute(tl.reshape(acc, (HEADS, RUNS, ROW, N)), 0, 2, 3, 1)
        a, b = tl.split(tl.reshape(runs, (HEADS, ROW, N, RUNS // 2, 2)))
        total = a + b
        if RUNS == 4:
            a, b = tl.split(total)
            return a + b
        else:
            return tl.reshape(total, (HEADS, ROW, N))


@triton.jit
def _combine(
    partial_ptr,
    statistics_ptr,
    first_program,
    last_program,
    factor,
    head,
    member,
    columns,
    mask,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    K: tl.constexpr,
    K_BLOCK: tl.constexpr,
):
    """Sum and total of one sequence's parts, over a common maximum."""
    maximum = tl.full((ROWS,), UNSEEN, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    acc = tl.zeros((ROWS, K_BLOCK), tl.float32)
    for program in tl.range(first_program, last_program + 1, num_stages=3):
        has_begin = (program == first_program).to(tl.int32)
        part = (program * NUM_KV_HEADS + head) * 2 + has_begin
        # other SMs wrote these: not from this SM's L1
        statistics = statistics_ptr + part * 2 * GROUP + member
        m = tl.load(statistics, mask=member < GROUP, other=0.0, cache_modifier=".cg")
        t = tl.load(statistics + GROUP, mask=member < GROUP, other=1.0, cache_modifier=".cg")
        rows = partial_ptr + (part * GROUP + member)[:, None] * K + columns[None, :]
        a = tl.load(rows, mask=mask, other=0.0, cache_modifier=".cg")
        new_maximum = tl.maximum(maximum, m)
        keep, take = tl.exp2((maximum - new_maximum) * factor), tl.exp2((m - new_maximum) * factor)
        total = total * keep + t * take
        acc = acc * keep[:, None] + a * take[:, None]
        maximum = new_maximum
    return total, acc


@triton.jit(do_not_specialize=["num_sequences"])
def decode(
    q_ptr,
    kv_ptr,
    o_ptr,
    partial_ptr,
    statistics_ptr,
    arrivals_ptr,
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
    min_tiles,
    WINDOW: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    REACH: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_BLOCK: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    K: tl.constexpr,
    K_BLOCK: tl.constexpr,
    HEADS: tl.constexpr,
    RUNS: tl.constexpr,
    RUN: tl.constexpr,
    S_BLOCK: tl.constexpr,
    DOT: tl.constexpr,
    PAIRS: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """Attention of one program's share of the tiles, HEADS key/value heads at a time.

    Every warp has RUN tokens of one head a turn: HEADS * RUNS warps. PAIRS: the pool is fp8, and
    `kv_ptr`, like `value_offset`, counts pairs.
    """
    if OVERLAP:
        gdc_launch_dependents()
    TILE: tl.constexpr = RUNS * RUN
    WARPS: tl.constexpr = HEADS * RUNS
    # an element of the pool is one value, or a pair
    WIDTH: tl.constexpr = 2 if PAIRS else 1
    ROW: tl.constexpr = K // WIDTH
    ROW_BLOCK: tl.constexpr = K_BLOCK // WIDTH
    kv_head = tl.program_id(0) * HEADS
    program = tl.program_id(1)
    # no kernel writes these: they were there before the step's first launch
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

    # rows of what is written: the query heads of each key/value head
    ROWS: tl.constexpr = HEADS * GROUP_BLOCK
    head = kv_head + tl.arange(0, ROWS) // GROUP_BLOCK
    member = tl.arange(0, ROWS) % GROUP_BLOCK
    columns = tl.arange(0, K_BLOCK)
    mask = (member < GROUP)[:, None] & (columns < K)[None, :]
    head_columns = (head * GROUP + member)[:, None] * K + columns[None, :]
    row = tl.arange(0, ROW_BLOCK)
    run_token = tl.arange(0, RUN)
    # with a cap or slopes, the factor must wait until after them
    BENT: tl.constexpr = SOFT_CAP or slopes_ptr is not None or bias_ptr is not None
    factor = 1.4426950408889634 if BENT else scale * 1.4426950408889634
    if slopes_ptr is not None:
        slope_head = (kv_head + tl.arange(0, WARPS) // RUNS)[:, None] * GROUP
        slope_member = tl.arange(0, GROUP_BLOCK)[None, :]
        slopes = tl.load(slopes_ptr + slope_head + slope_member, mask=slope_member < GROUP, other=0)
    if bias_ptr is not None:
        bias_head = (kv_head + tl.arange(0, WARPS) // RUNS)[:, None] * GROUP
        bias_member = tl.arange(0, GROUP_BLOCK)[None, :]
        bias_row = bias_ptr + (bias_head + bias_member) * (2 * REACH + 1) + REACH
    if OVERLAP:
        gdc_wait()
    while unit < stop:
        query = tl.load(query_starts_ptr + sequence)
        num_queries = tl.load(query_starts_ptr + sequence + 1) - query
        context = tl.where(num_queries == 1, tl.load(context_lens_ptr + sequence), 0)
        visible_from = tl.maximum(context - WINDOW, 0) if WINDOW > 0 else 0
        first_tile = visible_from // TILE
        end = begin + tl.cdiv(context, TILE) - first_tile
        segment_end = tl.minimum(end, stop)
        table_ptr = tables_ptr + sequence.to(tl.int64) * table_stride
        q_row = q_ptr + query.to(tl.int64) * q_stride
        q = tl.load(q_row + head_columns, mask=mask, other=0.0).to(DOT)
        # the query stands in columns: keys are the left operand, so a group of four fills half
        # a product's columns and not a quarter of its rows
        if PAIRS:
            q, q2 = tl.split(tl.reshape(q, (HEADS, GROUP_BLOCK, ROW_BLOCK, 2)))
            q2 = tl.permute(q2, 0, 2, 1)
            if RUNS > 1:
                q2 = tl.broadcast_to(q2[:, None], (HEADS, RUNS, ROW_BLOCK, GROUP_BLOCK))
                q2 = tl.reshape(q2, (WARPS, ROW_BLOCK, GROUP_BLOCK))
        q = tl.permute(tl.reshape(q, (HEADS, GROUP_BLOCK, ROW_BLOCK)), 0, 2, 1)
        if RUNS > 1:
            q = tl.broadcast_to(q[:, None], (HEADS, RUNS, ROW_BLOCK, GROUP_BLOCK))
            q = tl.reshape(q, (WARPS, ROW_BLOCK, GROUP_BLOCK))
        maximum = tl.full((WARPS, GROUP_BLOCK), UNSEEN, tl.float32)
        total = tl.zeros((WARPS, RUN, GROUP_BLOCK), tl.float32)
        acc = tl.zeros((WARPS, ROW_BLOCK, GROUP_BLOCK), tl.float32)
        acc2 = tl.zeros((WARPS, ROW_BLOCK, GROUP_BLOCK), tl.float32)
        # a block is looked up one turn ahead: the pool's rows follow from it at once
        block = tile_blocks(
            table_ptr, (first_tile + unit - begin) * TILE, context, BLOCK_SIZE, HEADS, RUNS, RUN
        )
        for u in range(unit, segment_end):
            first = (first_tile + u - begin) * TILE
            tile_row, warp_row = tile_rows(
                block, first, kv_head, NUM_KV_HEADS, BLOCK_SIZE, HEADS, RUNS, RUN
            )
            block = tile_blocks(table_ptr, first + TILE, context, BLOCK_SIZE, HEADS, RUNS, RUN)
            rows = (warp_row[:, None] + run_token[None, :]) * ROW
            tokens = first + (tl.arange(0, WARPS) % RUNS * RUN)[:, None] + run_token[None, :]
            # rows past the context may hold even NaN, which a weight of zero would not stop
            written = tokens < context
            k_ptr = kv_ptr + tile_row * ROW
            k_mask = written[:, :, None] & (row < ROW)[None, None, :]
            k = tl.load(k_ptr + rows[:, :, None] + row[None, None, :], mask=k_mask, other=0)
            # values are loaded turned, as the left operand of their product
            v_mask = written[:, None, :] & (row < ROW)[None, :, None]
            v_ptr = k_ptr + value_offset
            v = tl.load(v_ptr + rows[:, None, :] + row[None, :, None], mask=v_mask, other=0)
            if PAIRS:
                k, k2 = widen_pairs(k)
                v, v2 = widen_pairs(v)
                sc = tl.dot(k2, q2, tl.dot(k, q))
            else:
                sc = tl.dot(k, q)
            if BENT:
                sc *= scale
            if SOFT_CAP:
                sc = capped(sc, soft_cap)
            if slopes_ptr is not None:
                sc -= slopes[:, None, :] * (context - 1 - tokens)[:, :, None].to(tl.float32)
            if bias_ptr is not None:
                distance = tl.minimum(tl.maximum(context - 1 - tokens, 0), REACH)
                bias_mask = (bias_member < GROUP)[:, None, :]
                pointers = bias_row[:, None, :] + distance[:, :, None]
                sc += tl.load(pointers, mask=bias_mask, other=0.0)
            visible = written & (tokens >= visible_from)
            sc = tl.where(visible[:, :, None], sc, float("-inf"))
            new_maximum = tl.maximum(maximum, tl.max(sc, axis=1))
            p = tl.exp2(sc * factor - (new_maximum * factor)[:, None, :])
            keep = tl.exp2((maximum - new_maximum) * factor)[:, None, :]
            total = total * keep + p
            acc = tl.dot(v, p.to(DOT), acc * keep)
            if PAIRS:
                acc2 = tl.dot(v2, p.to(DOT), acc2 * keep)
            maximum = new_maximum

        writes = segment_end > unit
        if writes:
            o_maximum, o_total = maximum, tl.sum(total, axis=1)
            if RUNS > 1:
                maxima = tl.reshape(maximum, (HEADS, RUNS, GROUP_BLOCK))
                o_maximum = tl.max(maxima, axis=1)
                weight = tl.exp2((maxima - o_maximum[:, None, :]) * factor)
                totals = tl.reshape(o_total, (HEADS, RUNS, GROUP_BLOCK))
                o_total = tl.sum(totals * weight, axis=1)
                weight = tl.reshape(weight, (WARPS, 1, GROUP_BLOCK))
                acc *= weight
                acc2 *= weight
            o_maximum = tl.reshape(o_maximum, (ROWS,))
            o_total = tl.reshape(o_total, (ROWS,))
            o = tl.permute(_sum_runs(acc, HEADS, RUNS, ROW_BLOCK, GROUP_BLOCK), 0, 2, 1)
            if PAIRS:
                o2 = _sum_runs(acc2, HEADS, RUNS, ROW_BLOCK, GROUP_BLOCK)
                o = tl.join(o, tl.permute(o2, 0, 2, 1))
            o = tl.reshape(o, (ROWS, K_BLOCK))
            if (unit > begin) | (segment_end < end):
                has_begin = (unit == begin).to(tl.int32)
                part = (program * NUM_KV_HEADS + head) * 2 + has_begin
                statistics = statistics_ptr + part * 2 * GROUP + member
                tl.store(statistics, o_maximum, mask=member < GROUP)
                tl.store(statistics + GROUP, o_total, mask=member < GROUP)
                part_rows = partial_ptr + (part * GROUP + member)[:, None] * K + columns[None, :]
                tl.store(part_rows, o, mask=mask)
                tl.debug_barrier()
                arrival_ptr = arrivals_ptr + sequence * NUM_KV_HEADS + kv_head
                arrived = tl.atomic_add(arrival_ptr, 1, sem="acq_rel")
                first_program = begin // share
                last_program = (end - 1) // share
                writes = arrived == last_program - first_program
                if writes:
                    tl.store(arrival_ptr, 0)
                    o_total, o = _combine(
                        partial_ptr,
                        statistics_ptr,
                        first_program,
                        last_program,
                        factor,
                        head,
                        member,
                        columns,
                        mask,
                        NUM_KV_HEADS,
                        GROUP,
                        ROWS,
                        K,
                        K_BLOCK,
                    )
            if writes:
                o = o * (value_scale / o_total)[:, None]
                o_row = o_ptr + query.to(tl.int64) * o_stride
                tl.store(o_row + head_columns, o.to(o_ptr.dtype.element_ty), mask=mask)
        unit = segment_end
        begin = end
        sequence += 1
