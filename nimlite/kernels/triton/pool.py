"""The paged KV pool on a GPU: [layers, 2, blocks, G, block_size, K].

All keys (or values) of one head in one block lie side by side, block_size * K elements: a tile of
attention reads them with full-width loads, and the slices of the G heads follow each other.
"""

import torch
import triton
import triton.language as tl

from nimlite.kernels.base import KVLayout

BLOCK_SIZE = 64
"""Tokens in a block that suit the kernels best: a tile of attention then lies in one block."""


def allocate_kv(num_layers: int, layout: KVLayout, device: torch.device) -> torch.Tensor:
    """Zeros [layers, 2, blocks, G, block_size, K]."""
    shape = (layout.num_blocks, layout.num_kv_heads, layout.block_size, layout.head_dim)
    return torch.zeros((num_layers, 2, *shape), dtype=layout.dtype, device=device)


@triton.jit
def token_rows(
    table_ptr,
    first,
    kv_head,
    limit,
    NUM_KV_HEADS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr,
):
    """Rows of the pool, seen as [blocks * G * block_size, K], of tokens first … first + TILE.

    `first` is a multiple of TILE; tokens from `limit` on get an arbitrary row inside the pool.
    """
    offsets = tl.arange(0, TILE)
    if BLOCK_SIZE % TILE == 0:
        block = tl.load(table_ptr + first // BLOCK_SIZE).to(tl.int64)
        rows = (block * NUM_KV_HEADS + kv_head) * BLOCK_SIZE + first % BLOCK_SIZE + offsets
    else:
        tokens = first + offsets
        block = tl.load(table_ptr + tokens // BLOCK_SIZE, mask=tokens < limit, other=0)
        rows = (block.to(tl.int64) * NUM_KV_HEADS + kv_head) * BLOCK_SIZE + tokens % BLOCK_SIZE
    return rows
