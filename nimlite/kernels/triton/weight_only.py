"""y = x @ weight.T for weights of 4 or 8 bits and activations of 16: W4A16 and W8A16.

A weight row is words of 16 bits. A block of 32 words holds 32 columns in each of its fields (four
of 4 bits, two of 8): the i-th field of word j is column 32 i + j. So every field of a block is a
product of its own with 32 neighbouring columns of x, words lie in registers as the tensor cores
want 16-bit values, and one shift, one logical operation and one subtraction make two weights.

The weight is the left operand, as in `linear`. For few rows each warp has blocks of its own (a
product with a batch dimension), so that warps exchange nothing until the end, and the rows of x are
read once for all outputs of the tile.
"""

import functools

import torch
import triton
import triton.language as tl

from nimlite.kernels.triton.device import KIB, Device, await_inputs, prefetch
from nimlite.kernels.triton.linear import LinearConfig, LinearWorkspace
from nimlite.kernels.triton.product_tile import filled_parts, store_product, tile_and_rows
from nimlite.kernels.triton.scaled_rows import UnsummedRows
from nimlite.kernels.triton.weight_only_row import row_candidates, row_product
from nimlite.quant.base import PackedWeight

WORDS = 32
"""In a block."""
BITS = {"w4a16": 4, "w8a16": 8}
"""Of a weight, by scheme."""
_MAX_ROWS = 128
"""That one program multiplies; of more, several share a weight's tile."""
_SCALED_FIRST = 64
"""From so many rows on it costs less to scale the weights than each group's sums."""
_PREFETCH_BYTES = 1024
"""Of each weight row, where launches overlap."""


def columns_of_block(scheme: str) -> int:
    """Columns in 32 words."""
    return 16 // BITS[scheme] * WORDS


def group_size(weight: PackedWeight) -> int:
    """Columns that share a scale, as the kernels count them; 0: a row's, without a zero."""
    num_groups = len(weight.tensors["scale"])
    if num_groups == 1:
        return 0 if BITS[weight.scheme] == 8 else columns_of_block(weight.scheme)
    return weight.num_columns // num_groups


@triton.constexpr_function
def _assembly(bits: int, field: int) -> str:
    """Two weights from two words, in bf16 and exact. $0: the weights, $1: the words; 4 bits: $2:
    -(128 + zero), twice."""
    code = f"{{ .reg .b32 t, u, c; shr.b32 t, $1, {bits * field};"
    if bits == 4:
        # 0x4300 | q = 128 + q; plus 1 * -(128 + zero)
        code += "lop3.b32 t, t, 0x000f000f, 0x43004300, 0xea; mov.b32 c, 0x3f803f80;"
        return code + "fma.rn.bf16x2 $0, t, c, $2; }"
    # 128 + the lower seven bits, minus 128 or (bit 7 is the lowest of the exponent) 256
    code += "lop3.b32 u, t, 0x00800080, 0x43004300, 0xea; mov.b32 c, 0xbf80bf80;"
    code += "lop3.b32 t, t, 0x007f007f, 0x43004300, 0xea;"
    return code + "fma.rn.bf16x2 $0, u, c, t; }"


@triton.jit
def field_values(words, zero, BITS: tl.constexpr, FIELD: tl.constexpr, ASSEMBLY: tl.constexpr):
    """A field of the words as 16-bit floats: value - zero (of 8 bits: two's complement). `zero` has
    the words' shape; of bf16 it is -(128 + zero)."""
    if ASSEMBLY and BITS == 4:
        return tl.inline_asm_elementwise(
            _assembly(4, FIELD), "=r,r,r", [words, zero], tl.bfloat16, is_pure=True, pack=2
        )
    elif ASSEMBLY:
        return tl.inline_asm_elementwise(
            _assembly(8, FIELD), "=r,r", [words], tl.bfloat16, is_pure=True, pack=2
        )
    else:
        value = (words.to(tl.int32) >> (BITS * FIELD)) & ((1 << BITS) - 1)
        if BITS == 8:
            return ((value ^ 128) - 128).to(tl.float32)
        else:
            return value.to(tl.float32) - zero


@triton.jit
def zero_of(zero, ASSEMBLY: tl.constexpr):
    """As `field_values` wants it."""
    if ASSEMBLY:
        return (zero.to(tl.int16) | -0x3D00).to(tl.bfloat16, bitcast=True)
    else:
        return zero.to(tl.float32)


@triton.jit(do_not_specialize=["num_rows"])
def _weight_only(
    x_ptr,
    w_ptr,
    scale_ptr,
    zero_ptr,
    bias_ptr,
    y_ptr,
    partial_ptr,
    arrivals_ptr,
    num_rows,
    num_outputs,
    num_columns,
    num_blocks,
    num_groups,
    x_stride,
    w_stride,
    BITS: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SPANS: tl.constexpr,
    SCALED_FIRST: tl.constexpr,
    EVEN: tl.constexpr,
    ROW_TILES: tl.constexpr,
    BIAS: tl.constexpr,
    SUM: tl.constexpr,
    PREFETCH: tl.constexpr,
    OVERLAP: tl.constexpr,
    ASSEMBLY: tl.constexpr,
):
    """SPANS: blocks of a row in one turn, each of its own warp. GROUP_SIZE 0: one group a row."""
    FIELDS: tl.constexpr = 16 // BITS
    COLUMNS: tl.constexpr = 32 * FIELDS
    # groups that a block touches, of which each has so many fields
    IS_SMALL: tl.constexpr = GROUP_SIZE > 0 and GROUP_SIZE < COLUMNS
    PER_BLOCK: tl.constexpr = COLUMNS // GROUP_SIZE if IS_SMALL else 1
    GROUP_FIELDS: tl.constexpr = FIELDS // PER_BLOCK
    part = tl.program_id(1)
    tile, row_tile = tile_and_rows(num_rows, num_outputs, ROWS, BLOCK_N, ROW_TILES)
    n = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    m = row_tile * ROWS + tl.arange(0, ROWS)
    kept = tl.minimum(n, num_outputs - 1)
    steps = tl.cdiv(num_blocks, SPANS)
    steps_each = tl.cdiv(steps, tl.num_programs(1))
    first = part * steps_each
    last = tl.minimum(first + steps_each, steps)
    # without a way around the loop, which would give its sums a second origin, wgmma stays async
    tl.assume(first < last)
    if OVERLAP:
        begin = w_ptr + kept.to(tl.int64) * w_stride + first * (SPANS * 32)
        prefetch(begin, tl.minimum((num_blocks - first * SPANS) * 64, PREFETCH))
    exists = n < num_outputs
    if GROUP_SIZE == 0:
        # asked for before the loop, so that nothing waits for it behind
        row_scale = tl.load(scale_ptr + n, mask=exists, other=0.0).to(tl.float32)
    await_inputs(OVERLAP)

    j = tl.arange(0, 32)
    if SPANS == 1:
        w_ptrs = w_ptr + kept[:, None].to(tl.int64) * w_stride + j[None, :]
        x_ptrs = x_ptr + m[:, None].to(tl.int64) * x_stride + j[None, :]
        columns = j[None, :]
        row_mask = (m < num_rows)[:, None]
        blocks = first
        group_ptrs = kept
        acc = tl.zeros((BLOCK_N, ROWS), tl.float32)
    else:
        span = tl.arange(0, SPANS)
        w_ptrs = w_ptr + kept[None, :, None].to(tl.int64) * w_stride
        w_ptrs += span[:, None, None] * 32 + j[None, None, :]
        columns = span[:, None, None] * COLUMNS + j[None, None, :]
        x_ptrs = x_ptr + m[None, :, None].to(tl.int64) * x_stride + columns
        row_mask = (m < num_rows)[None, :, None]
        blocks = first * SPANS + span[:, None]
        group_ptrs = kept[None, :]
        acc = tl.zeros((SPANS, BLOCK_N, ROWS), tl.float32)
    total = acc
    if GROUP_SIZE > 0 and PER_BLOCK == 1:
        group = tl.minimum(blocks * COLUMNS // GROUP_SIZE, num_groups - 1) * num_outputs
        scale = tl.load(scale_ptr + group + group_ptrs)
        if BITS == 4:
            zero = tl.load(zero_ptr + group + group_ptrs)
    for step in range(first, last):
        column = step * (SPANS * COLUMNS)
        if EVEN:
            words = tl.load(w_ptrs + step * (SPANS * 32), eviction_policy="evict_first")
        else:
            # the block's words are there or not
            there = (column + columns) < num_blocks * COLUMNS
            words = tl.load(w_ptrs + step * (SPANS * 32), mask=there, other=0)
        if GROUP_SIZE > 0 and PER_BLOCK == 1:
            # asked for a turn ahead
            blocks += SPANS
            group = tl.minimum(blocks * COLUMNS // GROUP_SIZE, num_groups - 1) * num_outputs
            next_scale = tl.load(scale_ptr + group + group_ptrs)
            if BITS == 4:
                next_zero = tl.load(zero_ptr + group + group_ptrs)
        for i in tl.static_range(FIELDS):
            if PER_BLOCK > 1 and i % GROUP_FIELDS == 0:
                field = column + 32 * i
                if SPANS > 1:
                    field += tl.arange(0, SPANS)[:, None] * COLUMNS
                group = tl.minimum(field // GROUP_SIZE, num_groups - 1) * num_outputs
                scale = tl.load(scale_ptr + group + group_ptrs)
                if BITS == 4:
                    zero = tl.load(zero_ptr + group + group_ptrs)
            if EVEN:
                x = tl.load(x_ptrs + (column + 32 * i), mask=row_mask, other=0.0)
            else:
                inside = (column + 32 * i + columns) < num_columns
                x = tl.load(x_ptrs + (column + 32 * i), mask=row_mask & inside, other=0.0)
            wide_zero = words
            if BITS == 4:
                wide_zero = tl.broadcast_to(zero_of(zero, ASSEMBLY).expand_dims(-1), words.shape)
            weights = field_values(words, wide_zero, BITS, i, ASSEMBLY)
            if SCALED_FIRST and GROUP_SIZE > 0:
                weights = weights * scale.to(weights.dtype).expand_dims(-1)
            weights = weights.to(x.dtype)
            x = tl.trans(x) if SPANS == 1 else tl.trans(x, 0, 2, 1)
            acc = tl.dot(weights, x, acc)
            if GROUP_SIZE > 0 and not SCALED_FIRST and i % GROUP_FIELDS == GROUP_FIELDS - 1:
                total += acc * scale.to(tl.float32).expand_dims(-1)
                acc = tl.zeros(acc.shape, tl.float32)
        if GROUP_SIZE > 0 and PER_BLOCK == 1:
            scale = next_scale
            if BITS == 4:
                zero = next_zero
    if GROUP_SIZE > 0 and not SCALED_FIRST:
        acc = total
    if SPANS > 1:
        acc = tl.sum(acc, axis=0)
    if GROUP_SIZE == 0:
        acc *= row_scale[:, None]
    store_product(
        acc,
        bias_ptr,
        None,
        None,
        y_ptr,
        partial_ptr,
        arrivals_ptr,
        n,
        m,
        num_rows,
        num_outputs,
        BIAS,
        SUM,
    )


def weight_only_linear(
    x_TC: torch.Tensor,
    weight: PackedWeight,
    bias_N: torch.Tensor | None,
    config: LinearConfig,
    workspace: LinearWorkspace,
    device: Device,
    dtype: torch.dtype,
    *,
    sums: bool = True,
    compile_only: bool = False,
) -> torch.Tensor | UnsummedRows:
    """y_TN in `dtype`. Without `sums` (and without a bias), the parts of a split product as they
    are."""
    num_rows, num_columns = x_TC.shape
    if config.vector:
        form = {"bits": BITS[weight.scheme], "group_size": group_size(weight)}
        return row_product(
            x_TC, weight, bias_N, config, device, dtype, **form, compile_only=compile_only
        )
    words_NW, scale_GN = weight.tensors["weight"].view(torch.int16), weight.tensors["scale"]
    columns = columns_of_block(weight.scheme)
    rows, spans = rows_of(num_rows), config.block_c // columns
    num_groups, num_blocks = len(scale_GN), words_NW.shape[1] // WORDS
    row_tiles = triton.cdiv(num_rows, rows)
    split = filled_parts(triton.cdiv(num_blocks, spans), config.split)
    assert split == 1 or row_tiles == 1
    sums = sums or split == 1 or bias_N is not None
    if sums:
        y = torch.empty((num_rows, weight.num_rows), dtype=dtype, device=x_TC.device)
    else:
        shape = (split, num_rows, weight.num_rows)
        y = torch.empty(shape, dtype=torch.float32, device=x_TC.device)
    grid = (triton.cdiv(weight.num_rows, config.block_n) * row_tiles, split)
    launch = (
        functools.partial(_weight_only.warmup, grid=grid) if compile_only else _weight_only[grid]
    )
    launch(
        x_TC,
        words_NW,
        scale_GN,
        weight.tensors.get("zero"),
        bias_N,
        y,
        workspace.partial,
        workspace.arrivals,
        num_rows,
        weight.num_rows,
        num_columns,
        num_blocks,
        num_groups,
        x_TC.stride(0),
        words_NW.stride(0),
        BITS=BITS[weight.scheme],
        GROUP_SIZE=group_size(weight),
        ROWS=rows,
        BLOCK_N=config.block_n,
        SPANS=spans,
        SCALED_FIRST=rows >= _SCALED_FIRST,
        EVEN=num_columns % columns == 0 and num_blocks % spans == 0,
        ROW_TILES=row_tiles > 1,
        BIAS=bias_N is not None,
        SUM=sums,
        PREFETCH=_PREFETCH_BYTES,
        OVERLAP=device.overlaps_launches,
        ASSEMBLY=not device.is_interpreted,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        **device.launch_options,
    )
    return y if sums else UnsummedRows(y, None, None)


def rows_of(num_rows: int) -> int:
    """Rows of the compiled variant: a power of two that the tensor cores have columns for."""
    return min(max(int(triton.next_power_of_2(num_rows)), 8), _MAX_ROWS)


def weight_only_candidates(
    num_rows: int,
    weight: PackedWeight,
    workspace: LinearWorkspace,
    device: Device,
    *,
    sums: bool = True,
) -> list[LinearConfig]:
    """As `linear_candidates`."""
    columns = columns_of_block(weight.scheme)
    num_blocks, rows = triton.cdiv(weight.num_columns, columns), rows_of(num_rows)
    found = []
    for least, most, block_n, spans, num_warps, num_stages in _TILES:
        if not least <= num_rows <= most:
            continue
        tiles = triton.cdiv(weight.num_rows, block_n)
        # a block that wgmma reads is kept a turn longer
        in_flight = num_stages - (1 if spans > 1 else 0)
        shared = in_flight * spans * (block_n * 2 * WORDS + rows * columns * 2)
        for split in (1, 2, 4, 8) if sums else (2, 4, 8):
            config = LinearConfig(
                block_n=block_n,
                block_c=spans * columns,
                split=split,
                num_warps=num_warps,
                num_stages=num_stages,
            )
            programs = tiles * split
            is_busy = split == 1 or device.num_sms // 2 <= programs <= 6 * device.num_sms
            is_long = split == 1 or num_blocks >= 2 * split * spans
            is_one_tile = split == 1 or num_rows <= _MAX_ROWS
            fits = shared <= device.shared_memory - 4 * KIB
            room = not sums or workspace.holds(split, tiles, block_n * rows)
            if is_busy and is_long and is_one_tile and fits and room:
                found.append(config)
    wanted = 3 * device.num_sms
    found.sort(key=lambda c: abs(triton.cdiv(weight.num_rows, c.block_n) * c.split - wanted))
    if sums and num_rows == 1:
        found += row_candidates(weight, BITS[weight.scheme], group_size(weight))
    return found


# rows of x from and to, outputs, blocks of columns (one: the warps share it), warps, stages
_TILES = (
    (1, 16, 64, 4, 4, 4),
    (1, 16, 64, 4, 4, 6),
    (1, 16, 32, 4, 4, 6),
    (1, 16, 32, 8, 8, 4),
    (1, 16, 64, 8, 8, 3),
    (1, 8, 128, 4, 4, 4),
    (1, 32, 32, 4, 4, 4),
    (1, 16, 64, 4, 4, 3),
    (1, 32, 32, 4, 4, 3),
    (17, 32, 64, 4, 4, 3),
    (17, 64, 64, 1, 4, 6),
    (17, 1 << 30, 64, 1, 4, 2),
    (17, 64, 128, 1, 4, 4),
    (17, 128, 128, 1, 4, 6),
    (33, 128, 128, 1, 8, 4),
    (33, 1 << 30, 256, 1, 8, 4),
    (65, 1 << 30, 128, 1, 8, 3),
)
