"""The paged KV pool on a GPU: [layers, 2, blocks, G, block_size, K].

All keys (or values) of one head in one block lie side by side, block_size * K elements: a tile of
attention reads them with full-width loads, and the slices of the G heads follow each other.
"""

import torch
import triton
import triton.language as tl
from triton import knobs

from nimlite.kernels.base import KVLayout

_INTERPRETED = tl.constexpr(knobs.runtime.interpret)

BLOCK_SIZE = 64
"""Tokens in a block that suit the kernels best: a tile of attention then lies in one block."""


def allocate_kv(num_layers: int, layout: KVLayout, device: torch.device) -> torch.Tensor:
    """Zeros [layers, 2, blocks, G, block_size, K]."""
    shape = (layout.num_blocks, layout.num_kv_heads, layout.block_size, layout.head_dim)
    return torch.zeros((num_layers, 2, *shape), dtype=layout.dtype, device=device)


@triton.jit
def tile_blocks(
    table_ptr,
    first,
    limit,
    BLOCK_SIZE: tl.constexpr,
    HEADS: tl.constexpr,
    RUNS: tl.constexpr,
    RUN: tl.constexpr,
):
    """The block of a tile of RUNS runs of RUN tokens, the first of which is `first`; where a tile
    has several, that of each run, HEADS times over: [HEADS * RUNS].

    RUN divides the block size, and `first` is a multiple of the tile. Runs from `limit` on get an
    arbitrary block of the pool.
    """
    if BLOCK_SIZE % (RUNS * RUN) == 0:
        return tl.load(table_ptr + first // BLOCK_SIZE, mask=first < limit, other=0)
    else:
        tokens = first + tl.arange(0, HEADS * RUNS) % RUNS * RUN
        return tl.load(table_ptr + tokens // BLOCK_SIZE, mask=tokens < limit, other=0)


@triton.jit
def tile_rows(
    block,
    first,
    kv_head,
    NUM_KV_HEADS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEADS: tl.constexpr,
    RUNS: tl.constexpr,
    RUN: tl.constexpr,
):
    """Rows of the pool, seen as [blocks * G * block_size, K], where each run of a tile begins in
    each of HEADS heads from `kv_head` on: a row common to all, and what each adds, [HEADS * RUNS].

    `block` is what `tile_blocks` gave.
    """
    part = tl.arange(0, HEADS * RUNS)
    head_row = part // RUNS * BLOCK_SIZE
    run = part % RUNS * RUN
    if BLOCK_SIZE % (RUNS * RUN) == 0:
        common = (block.to(tl.int64) * NUM_KV_HEADS + kv_head) * BLOCK_SIZE + first % BLOCK_SIZE
        return common, head_row + run
    else:
        block_row = block.to(tl.int64) * (NUM_KV_HEADS * BLOCK_SIZE)
        common = (kv_head * BLOCK_SIZE).to(tl.int64)
        return common, block_row + head_row + (first + run) % BLOCK_SIZE


@triton.jit
def widen_pairs(pairs):
    """Two fp8 e4m3 side by side, read as one int16, in fp16: (the first, the second).

    Loads move 16 bits at the least between the lanes of a warp, so fp8 matrices are read as pairs
    and come apart in registers: byte by byte, a column of values would be gathered.
    """
    if _INTERPRETED:
        first = (pairs & 0xFF).to(tl.uint8).to(tl.float8e4nv, bitcast=True).to(tl.float16)
        second = ((pairs >> 8) & 0xFF).to(tl.uint8).to(tl.float8e4nv, bitcast=True).to(tl.float16)
    else:
        first, second = tl.inline_asm_elementwise(
            """{
            .reg .b32 sorted;
            .reg .b16 low, high;
            prmt.b32 sorted, $2, $2, 0x3120;
            mov.b32 {low, high}, sorted;
            cvt.rn.f16x2.e4m3x2 $0, low;
            cvt.rn.f16x2.e4m3x2 $1, high;
            }""",
            "=r,=r,r",
            [pairs],
            dtype=(tl.float16, tl.float16),
            is_pure=True,
            pack=2,
        )
    return first, second
