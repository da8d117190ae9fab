"""Where a program of a product belongs, and what it does with its sums."""

import triton
import triton.language as tl


def filled_parts(steps: int, split: int) -> int:
    """Into how many parts, at most `split`, so many steps go if all but the last take as many and
    none takes none."""
    return -(-steps // -(-steps // split))


@triton.jit
def tile_and_rows(
    num_rows, num_outputs, ROWS: tl.constexpr, BLOCK_N: tl.constexpr, ROW_TILES: tl.constexpr
):
    """Which tile of outputs and which of rows is a program's (grid: both, parts). Without ROW_TILES
    there is one of rows. Eight of rows go through the weight together, so that what programs read
    at a time fits into the L2 cache."""
    tile = tl.program_id(0)
    row_tile = 0
    if ROW_TILES:
        group_size = 8 * tl.cdiv(num_outputs, BLOCK_N)
        first = tile // group_size * 8
        together = tl.minimum(tl.cdiv(num_rows, ROWS) - first, 8)
        row_tile = first + tile % group_size % together
        tile = tile % group_size // together
    return tile, row_tile


@triton.jit
def store_product(
    acc,
    bias_ptr,
    x_scale_ptr,
    w_scale,
    y_ptr,
    partial_ptr,
    arrivals_ptr,
    n,
    m,
    num_rows,
    num_outputs,
    BIAS: tl.constexpr,
    SUM: tl.constexpr,
):
    """A program's fp32 sums of the outputs `n` and rows `m`: added to those of the programs that
    share its tile (grid: tiles, parts; with several parts all tiles have the same rows), by the
    last of them, and stored; without SUM stored as they are, not scaled. `w_scale` of the outputs
    and `x_scale_ptr` may be None."""
    BLOCK_N: tl.constexpr = acc.shape[0]
    ROWS: tl.constexpr = acc.shape[1]
    tile, part = tl.program_id(0), tl.program_id(1)
    parts = tl.num_programs(1)
    writes = True
    if not SUM:
        y_ptr += part.to(tl.int64) * num_rows * num_outputs
    elif parts > 1:
        i = tl.arange(0, BLOCK_N)[:, None] * ROWS + tl.arange(0, ROWS)[None, :]
        outputs = tile * BLOCK_N * ROWS + i
        size = tl.num_programs(0) * BLOCK_N * ROWS
        tl.store(partial_ptr + part * size + outputs, acc)
        tl.debug_barrier()
        writes = tl.atomic_add(arrivals_ptr + tile, 1, sem="acq_rel") == parts - 1
        if writes:
            tl.store(arrivals_ptr + tile, 0)
            acc = tl.zeros((BLOCK_N, ROWS), tl.float32)
            for p in range(parts):
                # other SMs wrote these: not from this SM's L1
                acc += tl.load(partial_ptr + p * size + outputs, cache_modifier=".cg")
    if writes:
        y = tl.trans(acc)
        exists = n < num_outputs
        if w_scale is not None:
            y *= w_scale[None, :]
        if x_scale_ptr is not None and SUM:
            y *= tl.load(x_scale_ptr + m, mask=m < num_rows, other=0.0)[:, None]
        if BIAS:
            y += tl.load(bias_ptr + n, mask=exists, other=0.0).to(tl.float32)[None, :]
        y_mask = (m < num_rows)[:, None] & exists[None, :]
        y_rows = y_ptr + m.to(tl.int64)[:, None] * num_outputs + n[None, :]
        tl.store(y_rows, y.to(y_ptr.dtype.element_ty), mask=y_mask)
