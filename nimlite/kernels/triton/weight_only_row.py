"""y = x @ weight.T for one row of x and weights of 4 or 8 bits, in integers.

With one row, turning weights into floats would take longer than reading them. So x is rounded to
int8 instead, the 32 (of 8 bits 16) values of a chunk with a scale of their own, and four
products at a time are summed exactly (`dp4a`). Rounding costs 0.5 % of x's norm where its values
are normally distributed. llama.cpp's products of one row with quantized weights do the same.

A chunk is what a thread loads at once, 16 neighbouring bytes of a weight row, and has a scale of x.
"""

import functools

import torch
import triton
import triton.language as tl

from nimlite.kernels.triton.device import Device, await_inputs
from nimlite.kernels.triton.linear import LinearConfig
from nimlite.quant.base import PackedWeight

_CHUNK_BITS = 128
_WORDS = tl.constexpr(_CHUNK_BITS // 32)
"""In a chunk."""
_TO_INTEGER = tl.constexpr(12582912.0)
"""1.5 * 2^23: the sum has no room for a fraction, and its lowest byte is the rounded value."""


@triton.jit
def _dot4(a, b, total, ASSEMBLY: tl.constexpr):
    """total + the four products of signed bytes."""
    if ASSEMBLY:
        return tl.inline_asm_elementwise(
            "dp4a.s32.s32 $0, $1, $2, $3;",
            "=r,r,r,r",
            [a, b, total],
            tl.int32,
            is_pure=True,
            pack=1,
        )
    else:
        for i in tl.static_range(4):
            total += ((a << (24 - 8 * i)) >> 24) * ((b << (24 - 8 * i)) >> 24)
        return total


@triton.jit
def _nearest(x, factor):
    """x * factor in the lowest byte; x the bits of a float."""
    return (x.to(tl.float32, bitcast=True) * factor + _TO_INTEGER).to(tl.int32, bitcast=True)


@triton.jit
def _in_bytes(pairs, others, factor):
    """Two pairs of bf16 times `factor` as bytes: the first of each, then the second of each."""
    a, b = _nearest(pairs << 16, factor), _nearest(others << 16, factor)
    c, d = _nearest(pairs & -65536, factor), _nearest(others & -65536, factor)
    return (a & 255) | ((b & 255) << 8) | ((c & 255) << 16) | (d << 24)


@triton.jit
def _largest(pairs):
    """Absolute value of each pair of bf16."""
    low = tl.abs((pairs << 16).to(tl.float32, bitcast=True))
    return tl.maximum(low, tl.abs((pairs & -65536).to(tl.float32, bitcast=True)))


@triton.jit
def _load_words(w_rows, word, num_words, EVEN: tl.constexpr):
    if EVEN:
        return tl.load(w_rows + word[None, :, :], eviction_policy="evict_first")
    else:
        there = (word < num_words)[None, :, :]
        return tl.load(w_rows + word[None, :, :], mask=there, other=0)


@triton.jit
def _load_pairs(x_ptr, pair, num_pairs, EVEN: tl.constexpr):
    if EVEN:
        return tl.load(x_ptr + pair)
    else:
        return tl.load(x_ptr + pair, mask=pair < num_pairs, other=0)


@triton.jit
def _row_product(
    x_ptr,
    w_ptr,
    scale_ptr,
    zero_ptr,
    bias_ptr,
    y_ptr,
    num_outputs,
    num_pairs,
    num_words,
    num_groups,
    BITS: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CHUNKS: tl.constexpr,
    EVEN: tl.constexpr,
    FULL: tl.constexpr,
    AHEAD: tl.constexpr,
    OVERLAP: tl.constexpr,
    ASSEMBLY: tl.constexpr,
):
    """x as pairs of bf16 in 32 bits. GROUP_SIZE 0: one group a row, without a zero."""
    COLUMNS: tl.constexpr = 32 * (16 // BITS)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    # where every tile is full, scales of neighbouring outputs come in one load
    kept = n if FULL else tl.minimum(n, num_outputs - 1)
    chunk, k = tl.arange(0, CHUNKS), tl.arange(0, _WORDS)
    w_rows = w_ptr + kept.to(tl.int64)[:, None, None] * num_words
    y = tl.zeros((BLOCK_N, CHUNKS), tl.float32)
    word = (chunk * _WORDS)[:, None] + k[None, :]
    if AHEAD:
        # asked for before the wait and then a turn ahead: no kernel writes them
        next_words = _load_words(w_rows, word, num_words, EVEN)
    await_inputs(OVERLAP)
    for first in range(0, num_words, CHUNKS * _WORDS):
        if AHEAD:
            words, ahead = next_words, first + CHUNKS * _WORDS
            next_words = _load_words(w_rows, word + ahead, num_words, False)
        else:
            words = _load_words(w_rows, word + first, num_words, EVEN)
        # a block has 16 words of 32 bits
        block = (first + chunk * _WORDS) // 16
        if GROUP_SIZE > 0:
            group = tl.minimum(block * COLUMNS // GROUP_SIZE, num_groups - 1) * num_outputs
            scale = tl.load(scale_ptr + group[None, :] + kept[:, None]).to(tl.float32)
            if BITS == 4:
                zero = tl.load(zero_ptr + group[None, :] + kept[:, None]).to(tl.float32)
        pair = (block * (COLUMNS // 2) + chunk % 4 * _WORDS)[:, None] + k[None, :]
        x0 = _load_pairs(x_ptr, pair, num_pairs, EVEN)
        x1 = _load_pairs(x_ptr, pair + 16, num_pairs, EVEN)
        largest = tl.maximum(_largest(x0), _largest(x1))
        if BITS == 4:
            x2 = _load_pairs(x_ptr, pair + 32, num_pairs, EVEN)
            x3 = _load_pairs(x_ptr, pair + 48, num_pairs, EVEN)
            largest = tl.maximum(largest, tl.maximum(_largest(x2), _largest(x3)))
        x_scale = tl.maximum(tl.max(largest, axis=1), 1e-12) / 127
        factor = (1 / x_scale)[:, None]
        sums = tl.zeros((BLOCK_N, CHUNKS, _WORDS), tl.int32)
        if BITS == 8:
            x_bytes = _in_bytes(x0, x1, factor)[None, :, :]
            sums = _dot4(words, tl.broadcast_to(x_bytes, words.shape), sums, ASSEMBLY)
        else:
            even, odd = _in_bytes(x0, x2, factor), _in_bytes(x1, x3, factor)
            low, high = words & 0x0F0F0F0F, (words >> 4) & 0x0F0F0F0F
            sums = _dot4(low, tl.broadcast_to(even[None, :, :], words.shape), sums, ASSEMBLY)
            sums = _dot4(high, tl.broadcast_to(odd[None, :, :], words.shape), sums, ASSEMBLY)
        part = tl.sum(sums, axis=2).to(tl.float32)
        if BITS == 4:
            ones = tl.zeros((CHUNKS, _WORDS), tl.int32)
            total = _dot4(odd, ones + 0x01010101, ones, ASSEMBLY)
            total = _dot4(even, ones + 0x01010101, total, ASSEMBLY)
            part -= zero * tl.sum(total, axis=1).to(tl.float32)[None, :]
        part *= x_scale[None, :]
        if GROUP_SIZE > 0:
            part *= scale
        y += part
    y_N = tl.sum(y, axis=1)
    exists = n < num_outputs
    if GROUP_SIZE == 0:
        y_N *= tl.load(scale_ptr + n, mask=exists, other=0.0).to(tl.float32)
    if bias_ptr is not None:
        y_N += tl.load(bias_ptr + n, mask=exists, other=0.0).to(tl.float32)
    tl.store(y_ptr + n, y_N.to(y_ptr.dtype.element_ty), mask=exists)


def row_product(
    x_1C: torch.Tensor,
    weight: PackedWeight,
    bias_N: torch.Tensor | None,
    config: LinearConfig,
    device: Device,
    dtype: torch.dtype,
    *,
    bits: int,
    group_size: int,
    compile_only: bool = False,
) -> torch.Tensor:
    """y_1N in `dtype`, of x in bf16; groups of whole blocks, or one a row (`group_size` 0)."""
    assert x_1C.dtype == torch.bfloat16 and x_1C.shape[0] == 1 and x_1C.stride(1) == 1
    words_NW, scale_GN = weight.tensors["weight"].view(torch.int32), weight.tensors["scale"]
    num_words, chunks = words_NW.shape[1], config.block_c * bits // _CHUNK_BITS
    columns = 32 // bits * num_words
    y = torch.empty((1, weight.num_rows), dtype=dtype, device=x_1C.device)
    grid = (triton.cdiv(weight.num_rows, config.block_n),)
    launch = (
        functools.partial(_row_product.warmup, grid=grid) if compile_only else _row_product[grid]
    )
    launch(
        x_1C.view(torch.int32),
        words_NW,
        scale_GN,
        weight.tensors.get("zero"),
        bias_N,
        y,
        weight.num_rows,
        weight.num_columns // 2,
        num_words,
        len(scale_GN),
        BITS=bits,
        GROUP_SIZE=group_size,
        BLOCK_N=config.block_n,
        CHUNKS=chunks,
        EVEN=columns == weight.num_columns and num_words % (chunks * 4) == 0,
        FULL=weight.num_rows % config.block_n == 0,
        AHEAD=config.num_stages > 1,
        OVERLAP=device.overlaps_launches,
        ASSEMBLY=not device.is_interpreted,
        num_warps=config.num_warps,
        num_stages=1,
        **device.launch_options,
    )
    return y


def row_candidates(weight: PackedWeight, bits: int, group_size: int) -> list[LinearConfig]:
    """Configurations worth measuring; none where a chunk may lie in several groups, or where half a
    pair of x would be missing."""
    if group_size % (16 // bits * 32) or weight.num_columns % 2:
        return []
    return [
        LinearConfig(
            block_n=block_n,
            block_c=chunks * _CHUNK_BITS // bits,
            split=1,
            num_warps=num_warps,
            num_stages=num_stages,
            vector=True,
        )
        for block_n, chunks, num_warps, num_stages in _TILES
    ]


# outputs, chunks of a row at a time, warps, stages
_TILES = (
    (8, 128, 4, 1),
    (4, 128, 4, 2),
    (4, 128, 4, 1),
    (2, 128, 4, 2),
    (16, 64, 4, 1),
    (8, 64, 2, 2),
    (4, 64, 2, 2),
    (4, 64, 2, 1),
    (4, 32, 1, 2),
)
