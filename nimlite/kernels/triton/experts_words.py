"""The grouped product of `moe` for experts' weights in words of 4 or 8 bits (`weight_only`)."""

import triton
import triton.language as tl

from nimlite.kernels.triton.device import await_inputs
from nimlite.kernels.triton.weight_only import field_values, zero_of


@triton.jit
def experts_words(
    x_ptr,
    words_ptr,
    scale_ptr,
    zero_ptr,
    order_ptr,
    starts_ptr,
    weights_ptr,
    y_ptr,
    num_outputs,
    num_columns,
    num_blocks,
    num_groups,
    num_weight_rows,
    PER_TOKEN: tl.constexpr,
    DOWN: tl.constexpr,
    BITS: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    EVEN: tl.constexpr,
    ASSEMBLY: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """Grid, rows of x and of y, and DOWN as in `moe`. GROUP_SIZE 0: one group a row, without a
    zero; else scales (and zeros of 4 bits) [groups, rows of the weight]. EVEN: the columns fill
    whole blocks."""
    FIELDS: tl.constexpr = 16 // BITS
    COLUMNS: tl.constexpr = 32 * FIELDS
    # fields of a block that share a scale
    IS_SMALL: tl.constexpr = GROUP_SIZE > 0 and GROUP_SIZE < COLUMNS
    GROUP_FIELDS: tl.constexpr = GROUP_SIZE // 32 if IS_SMALL else FIELDS
    await_inputs(OVERLAP)
    expert = tl.program_id(2)
    end = tl.load(starts_ptr + expert + 1)
    first = tl.load(starts_ptr + expert) + tl.program_id(0) * ROWS
    if first < end:
        place = first + tl.arange(0, ROWS)
        exists = place < end
        index = tl.load(order_ptr + place, mask=exists, other=0)
        row = (place if DOWN else index // PER_TOKEN).to(tl.int64)
        n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
        j = tl.arange(0, 32)
        weight_row = expert * num_outputs + tl.minimum(n, num_outputs - 1)
        w_ptrs = words_ptr + weight_row.to(tl.int64)[:, None] * (num_blocks * 32) + j[None, :]
        x_ptrs = x_ptr + row[None, :] * num_columns + j[:, None]
        total = tl.zeros((BLOCK_N, ROWS), tl.float32)
        for block in range(num_blocks):
            words = tl.load(w_ptrs + block * 32)
            for i in tl.static_range(FIELDS):
                column = block * COLUMNS + 32 * i
                zero = words
                if GROUP_SIZE > 0 and i % GROUP_FIELDS == 0:
                    group = tl.minimum(column // GROUP_SIZE, num_groups - 1) * num_weight_rows
                    scale = tl.load(scale_ptr + group + weight_row).to(tl.float32)
                    if BITS == 4:
                        zeros = zero_of(tl.load(zero_ptr + group + weight_row), ASSEMBLY)
                    acc = tl.zeros((BLOCK_N, ROWS), tl.float32)
                if BITS == 4:
                    zero = tl.broadcast_to(zeros[:, None], words.shape)
                x_mask = exists[None, :]
                if not EVEN:
                    x_mask = x_mask & ((column + j) < num_columns)[:, None]
                x = tl.load(x_ptrs + column, mask=x_mask, other=0.0)
                w = field_values(words, zero, BITS, i, ASSEMBLY).to(x.dtype)
                if GROUP_SIZE > 0:
                    acc = tl.dot(w, x, acc)
                    if i % GROUP_FIELDS == GROUP_FIELDS - 1:
                        total += acc * scale[:, None]
                else:
                    total = tl.dot(w, x, total)
        if GROUP_SIZE == 0:
            total *= tl.load(scale_ptr + weight_row).to(tl.float32)[:, None]
        target = (index if DOWN else place).to(tl.int64)
        if DOWN:
            total *= tl.load(weights_ptr + index, mask=exists, other=0.0)[None, :]
        y = y_ptr + target[None, :] * num_outputs + n[:, None]
        y_mask = (n < num_outputs)[:, None] & exists[None, :]
        tl.store(y, total.to(y_ptr.dtype.element_ty), mask=y_mask)
