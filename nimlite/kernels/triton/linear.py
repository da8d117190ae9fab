"""y = x @ weight.T for few rows of x: decode, where reading the weight is all that costs.

The weight is the left operand of the tensor cores' product, so that its long side fills their rows
and the few tokens their columns. Several programs may share one tile of outputs, each with a part
of the columns (split-K); the last to arrive adds the parts up in their order, or the next kernel
does (`UnsummedRows`). While the kernel before still runs, each program asks the L2 cache for its
first weights.
"""

import functools
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from nimlite.kernels.triton.device import KIB, Device, await_inputs, prefetch
from nimlite.kernels.triton.product_tile import filled_parts, store_product, tile_and_rows
from nimlite.kernels.triton.scaled_rows import ScaledRows, UnsummedRows
from nimlite.quant.base import PackedWeight

ROW_BUCKETS = (1, 16, 32, 64, 128)
"""Rows of x that one compiled variant serves: up to the bucket. Of more, cuBLAS multiplies better
(256 rows of Llama-3-8B on an H200: by 4 % to 52 %)."""
_VECTOR_BYTES = 2
"""Of an element of a vector product, widened in registers: fp8 takes as much as bf16 there."""
_PREFETCH = 1024
"""Columns of each weight row, where launches overlap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearConfig:
    """Block shapes and the number of programs that share a tile of outputs."""

    block_n: int
    block_c: int
    split: int
    num_warps: int
    num_stages: int
    vector: bool = False
    """One row, summed in registers without tensor cores; two stages: weights come a turn ahead."""
    descriptors: bool = False
    """The copy engine brings whole blocks, instead of each thread its own piece."""

    def rows(self, num_rows: int) -> int:
        """Rows of the compiled variant; of more, several programs share a weight's tile."""
        if self.vector:
            return 1
        return max(next((rows for rows in ROW_BUCKETS if num_rows <= rows), ROW_BUCKETS[-1]), 16)

    def shared_bytes(self, rows: int, element_bytes: int) -> int:
        """Shared memory of the loop: tiles of weight and x in flight (a vector needs none)."""
        columns = self.block_n + self.rows(rows)
        return 0 if self.vector else self.num_stages * columns * self.block_c * element_bytes


@dataclass(frozen=True, slots=True)
class LinearWorkspace:
    """Memory for the parts of shared tiles. Launches of one stream may use the same."""

    partial: torch.Tensor
    """fp32, flat."""
    arrivals: torch.Tensor
    """int32, zero between launches."""
    one: torch.Tensor
    """fp32, 1: the scale of a product that is scaled later."""

    @classmethod
    def allocate(cls, where: torch.device, num_elements: int = 1 << 22) -> "LinearWorkspace":
        """`num_elements` bounds split * N * rows over all split products."""
        return cls(
            torch.empty(num_elements, dtype=torch.float32, device=where),
            torch.zeros(1 << 14, dtype=torch.int32, device=where),
            torch.ones(1, dtype=torch.float32, device=where),
        )

    def holds(self, split: int, tiles: int, tile_size: int) -> bool:
        """The parts of so many tiles of so many outputs each."""
        needed = split * tiles * tile_size
        return split == 1 or (needed <= len(self.partial) and tiles <= len(self.arrivals))


@triton.jit(do_not_specialize=["num_rows"])
def _linear(
    x_ptr,
    w_ptr,
    x_blocks,
    w_blocks,
    bias_ptr,
    x_scale_ptr,
    w_scale_ptr,
    y_ptr,
    partial_ptr,
    arrivals_ptr,
    num_rows,
    num_outputs,
    num_columns,
    x_stride,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    EVEN: tl.constexpr,
    ROW_TILES: tl.constexpr,
    SCALED: tl.constexpr,
    BIAS: tl.constexpr,
    SUM: tl.constexpr,
    PREFETCH: tl.constexpr,
    AHEAD: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    part, parts = tl.program_id(1), tl.num_programs(1)
    tile, row_tile = tile_and_rows(num_rows, num_outputs, ROWS, BLOCK_N, ROW_TILES)
    n = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    m = row_tile * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, BLOCK_C)
    steps = tl.cdiv(num_columns, BLOCK_C)
    steps_each = tl.cdiv(steps, parts)
    first = part * steps_each
    last = tl.minimum(first + steps_each, steps)
    # without a way around the loop, which would give its sums a second origin, wgmma stays async
    tl.assume(first < last)
    w_rows = w_ptr + tl.minimum(n, num_outputs - 1).to(tl.int64) * num_columns
    if OVERLAP and EVEN and ROWS > 1:
        # each of 128 threads (or more) asks for one piece of one row
        PIECES: tl.constexpr = 128 // BLOCK_N if BLOCK_N < 128 else 1
        i = tl.arange(0, BLOCK_N * PIECES)
        row = tl.minimum(tile * BLOCK_N + i // PIECES, num_outputs - 1).to(tl.int64)
        begin = first * BLOCK_C + (i % PIECES) * (PREFETCH // PIECES)
        inside = (begin + PREFETCH // PIECES <= num_columns).to(tl.int32)
        element_bytes: tl.constexpr = w_ptr.dtype.element_ty.primitive_bitwidth // 8
        num_bytes = inside * (PREFETCH // PIECES) * element_bytes
        prefetch(w_ptr + row * num_columns + begin * inside, num_bytes)
    exists = n < num_outputs
    w_scale = None
    if SCALED and SUM:
        # asked for before the loop, so that nothing waits for it behind
        w_scale = tl.load(w_scale_ptr + n, mask=exists, other=0.0)
    if ROWS == 1 and AHEAD:
        # asked for before the wait and then a turn ahead: no kernel writes them
        columns = first * BLOCK_C + c
        next_w = tl.load(w_rows[:, None] + columns[None, :], mask=(columns < num_columns)[None, :])
    await_inputs(OVERLAP)

    if ROWS == 1:
        wide = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
        for step in range(first, last):
            columns = step * BLOCK_C + c
            mask = columns < num_columns
            if AHEAD:
                w, ahead = next_w, columns + BLOCK_C
                there = ahead < tl.minimum(num_columns, last * BLOCK_C)
                next_w = tl.load(w_rows[:, None] + ahead[None, :], mask=there[None, :])
            elif EVEN:
                w = tl.load(w_rows[:, None] + columns[None, :], eviction_policy="evict_first")
            else:
                w = tl.load(w_rows[:, None] + columns[None, :], mask=mask[None, :])
            if EVEN:
                x = tl.load(x_ptr + columns)
            else:
                w = tl.where(mask[None, :], w.to(tl.float32), 0.0)
                x = tl.load(x_ptr + columns, mask=mask, other=0.0)
            wide += w.to(tl.float32) * x.to(tl.float32)[None, :]
        acc = tl.sum(wide, axis=1)[:, None]
    else:
        IS_INT: tl.constexpr = w_ptr.dtype.element_ty == tl.int8
        acc = tl.zeros((BLOCK_N, ROWS), tl.int32 if IS_INT else tl.float32)
        x_rows = x_ptr + m.to(tl.int64) * x_stride
        row_mask = (m < num_rows)[:, None]
        for step in range(first, last):
            columns = step * BLOCK_C + c
            if w_blocks is not None:
                w = w_blocks.load([tile * BLOCK_N, step * BLOCK_C])
                x = x_blocks.load([row_tile * ROWS, step * BLOCK_C])
            elif EVEN:
                w = tl.load(w_rows[:, None] + columns[None, :], eviction_policy="evict_first")
                x = tl.load(x_rows[:, None] + columns[None, :], mask=row_mask, other=0.0)
            else:
                mask = (columns < num_columns)[None, :]
                w = tl.load(w_rows[:, None] + columns[None, :], mask=mask, other=0.0)
                x = tl.load(x_rows[:, None] + columns[None, :], mask=row_mask & mask, other=0.0)
            if IS_INT:
                acc = tl.dot(w, tl.trans(x), acc, out_dtype=tl.int32)
            elif SCALED:
                # the tensor cores' own fp8 sums have 14 bits: move them to fp32 after each block
                acc += tl.dot(w, tl.trans(x))
            else:
                acc = tl.dot(w, tl.trans(x), acc)
        acc = acc.to(tl.float32)

    store_product(
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
        BIAS,
        SUM,
    )


def linear(
    x: torch.Tensor | ScaledRows,
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
    """y_TN in `dtype`. With the schemes fp8_rows and int8_rows go scaled rows; a vector may be in
    16 bits, too. Without `sums` (and without a bias), the parts of a split product as they are."""
    x_TC, x_scale_T1 = (x.values_TC, x.scale_T1) if isinstance(x, ScaledRows) else (x, None)
    w_NC, w_scale_N = weight.tensors["weight"], weight.tensors.get("scale")
    assert config.vector or (w_scale_N is None) == (x_scale_T1 is None)
    assert config.vector or x_TC.dtype == w_NC.dtype
    num_rows, num_columns = x_TC.shape
    assert num_rows == 1 or not config.vector
    split = filled_parts(triton.cdiv(num_columns, config.block_c), config.split)
    sums = sums or split == 1 or bias_N is not None
    if sums:
        y = torch.empty((num_rows, weight.num_rows), dtype=dtype, device=x_TC.device)
    else:
        shape = (split, num_rows, weight.num_rows)
        y = torch.empty(shape, dtype=torch.float32, device=x_TC.device)
    blocks: tuple[TensorDescriptor | None, ...] = (None, None)
    if config.descriptors:
        blocks = (
            TensorDescriptor.from_tensor(x_TC, [config.rows(num_rows), config.block_c]),
            TensorDescriptor.from_tensor(w_NC, [config.block_n, config.block_c]),
        )
    row_tiles = triton.cdiv(num_rows, config.rows(num_rows))
    assert split == 1 or row_tiles == 1
    grid = (triton.cdiv(weight.num_rows, config.block_n) * row_tiles, split)
    launch = functools.partial(_linear.warmup, grid=grid) if compile_only else _linear[grid]
    launch(
        x_TC,
        w_NC,
        *blocks,
        bias_N,
        x_scale_T1,
        w_scale_N,
        y,
        workspace.partial,
        workspace.arrivals,
        num_rows,
        weight.num_rows,
        num_columns,
        x_TC.stride(0),
        ROWS=config.rows(num_rows),
        BLOCK_N=config.block_n,
        BLOCK_C=config.block_c,
        EVEN=num_columns % config.block_c == 0,
        ROW_TILES=row_tiles > 1,
        SCALED=w_scale_N is not None,
        BIAS=bias_N is not None,
        SUM=sums,
        PREFETCH=_PREFETCH,
        AHEAD=config.num_stages > 1,
        OVERLAP=device.overlaps_launches,
        num_warps=config.num_warps,
        num_stages=1 if config.vector else config.num_stages,
        **device.launch_options,
    )
    return y if sums else UnsummedRows(y, x_scale_T1, w_scale_N)


def linear_candidates(
    num_rows: int,
    weight: PackedWeight,
    workspace: LinearWorkspace,
    device: Device,
    *,
    sums: bool = True,
) -> list[LinearConfig]:
    """Configurations worth measuring for so many rows, the likely best first: all SMs busy, and at
    least two blocks of columns a program. Without `sums`, only those that split."""
    element_bytes = weight.tensors["weight"].element_size()
    found = []
    for least, most, block_n, block_bytes, num_warps, num_stages, kind in _TILES:
        if not least <= num_rows <= most:
            continue
        if kind == "descriptors" and not device.has_copy_engine:
            continue
        is_vector = kind == "vector"
        tiles = triton.cdiv(weight.num_rows, block_n)
        block_c = block_bytes // (_VECTOR_BYTES if is_vector else element_bytes)
        for split in (1, 2, 4) if sums else (2, 4):
            config = LinearConfig(
                block_n=block_n,
                block_c=block_c,
                split=split,
                num_warps=num_warps,
                num_stages=num_stages,
                vector=is_vector,
                descriptors=kind == "descriptors",
            )
            programs = tiles * split
            is_busy = split == 1 or device.num_sms // 2 <= programs <= 6 * device.num_sms
            is_one_tile = split == 1 or num_rows <= ROW_BUCKETS[-1]
            is_long = split == 1 or weight.num_columns >= 2 * split * block_c
            fits = config.shared_bytes(num_rows, element_bytes) <= device.shared_memory - 4 * KIB
            room = not sums or workspace.holds(split, tiles, block_n * config.rows(num_rows))
            if is_busy and is_one_tile and is_long and fits and room:
                found.append(config)
    wanted = 3 * device.num_sms
    return sorted(
        found, key=lambda c: abs(triton.cdiv(weight.num_rows, c.block_n) * c.split - wanted)
    )


_MANY = 1 << 30
# rows of x from and to, outputs, bytes of columns, warps, stages, where blocks come from
_TILES = (
    (1, 64, 64, 256, 4, 4, "descriptors"),
    (1, 128, 64, 256, 4, 4, "pointers"),
    (1, 32, 32, 512, 4, 4, "pointers"),
    (1, 32, 32, 128, 4, 2, "pointers"),
    (2, 64, 64, 128, 4, 6, "descriptors"),
    (2, 64, 128, 256, 4, 3, "descriptors"),
    (2, 64, 256, 128, 8, 4, "descriptors"),
    (33, 64, 128, 128, 4, 4, "descriptors"),
    (33, 64, 128, 256, 8, 3, "pointers"),
    (33, 128, 64, 128, 4, 3, "pointers"),
    (65, 128, 64, 128, 4, 4, "descriptors"),
    (65, 128, 128, 128, 8, 6, "descriptors"),
    (129, _MANY, 128, 128, 8, 4, "descriptors"),
    (129, _MANY, 256, 128, 8, 3, "descriptors"),
    (129, _MANY, 256, 128, 8, 4, "descriptors"),
    (129, _MANY, 128, 64, 8, 4, "pointers"),
    (1, 1, 16, 2048, 4, 1, "vector"),
    (1, 1, 8, 2048, 4, 1, "vector"),
    (1, 1, 8, 2048, 4, 2, "vector"),
    (1, 1, 4, 2048, 4, 1, "vector"),
    (1, 1, 4, 2048, 4, 2, "vector"),
    (1, 1, 16, 1024, 4, 1, "vector"),
    (1, 1, 8, 1024, 4, 2, "vector"),
    (1, 1, 32, 1024, 8, 1, "vector"),
)
