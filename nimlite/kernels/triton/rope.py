"""Rotary positions on queries and keys, and the write of keys and values to the paged pool."""

import torch
import triton
import triton.language as tl

from nimlite.kernels.base import Batch, KVLayout
from nimlite.kernels.triton.device import Device, await_inputs

_HEADS = 16
"""Heads of one token that a program handles."""


@triton.jit
def _rope_and_cache(
    qkv_ptr,
    cos_sin_ptr,
    kv_ptr,
    positions_ptr,
    slots_ptr,
    qkv_stride,
    value_offset,
    k_multiplier,
    v_multiplier,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    K: tl.constexpr,
    HALF: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    REST_BLOCK: tl.constexpr,
    HEADS: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    await_inputs(OVERLAP)
    token = tl.program_id(0)
    heads = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    is_query = heads < NUM_HEADS
    is_value = heads >= NUM_HEADS + NUM_KV_HEADS
    slot = tl.load(slots_ptr + token)
    exists = heads < NUM_HEADS + 2 * NUM_KV_HEADS
    # padding rows of a recorded batch have slot -1
    cached_heads = tl.where(slot >= 0, NUM_HEADS + 2 * NUM_KV_HEADS, 0)
    cached = (heads >= NUM_HEADS) & (heads < cached_heads)

    kv_head = (heads - NUM_HEADS) % NUM_KV_HEADS
    block = (slot // BLOCK_SIZE).to(tl.int64)
    row = (block * NUM_KV_HEADS + kv_head) * BLOCK_SIZE + slot % BLOCK_SIZE
    pool_ptr = kv_ptr + tl.where(is_value, value_offset, 0) + row * K
    head_ptr = qkv_ptr + token.to(tl.int64) * qkv_stride + heads * K
    multiplier = tl.where(is_value, v_multiplier, k_multiplier)[:, None]

    if HALF > 0:
        # a thread holds both halves of a pair, so that it may write where it read
        pairs = tl.arange(0, HALF_BLOCK)
        pair_mask = pairs < HALF
        mask = exists[:, None] & pair_mask[None, :]
        first_ptr = head_ptr[:, None] + pairs[None, :]
        first = tl.load(first_ptr, mask=mask, other=0.0).to(tl.float32)
        second = tl.load(first_ptr + HALF, mask=mask, other=0.0).to(tl.float32)
        position = tl.load(positions_ptr + token).to(tl.int64)
        angle_ptr = cos_sin_ptr + position * (2 * HALF) + pairs
        cos = tl.load(angle_ptr, mask=pair_mask, other=0.0).to(tl.float32)[None, :]
        sin = tl.load(angle_ptr + HALF, mask=pair_mask, other=0.0).to(tl.float32)[None, :]
        keep = is_value[:, None]
        rotated_first = tl.where(keep, first, first * cos - second * sin)
        rotated_second = tl.where(keep, second, second * cos + first * sin)

        query_mask = mask & is_query[:, None]
        dtype = qkv_ptr.dtype.element_ty
        tl.store(first_ptr, rotated_first.to(dtype), mask=query_mask)
        tl.store(first_ptr + HALF, rotated_second.to(dtype), mask=query_mask)
        target = pool_ptr[:, None] + pairs[None, :]
        cache_mask = mask & cached[:, None]
        pool_dtype = kv_ptr.dtype.element_ty
        tl.store(target, (rotated_first * multiplier).to(pool_dtype), mask=cache_mask)
        tl.store(target + HALF, (rotated_second * multiplier).to(pool_dtype), mask=cache_mask)
    if 2 * HALF < K:
        columns = 2 * HALF + tl.arange(0, REST_BLOCK)
        rest_mask = cached[:, None] & (columns < K)[None, :]
        rest = tl.load(head_ptr[:, None] + columns[None, :], mask=rest_mask, other=0.0)
        rest = rest.to(tl.float32) * multiplier
        tl.store(
            pool_ptr[:, None] + columns[None, :], rest.to(kv_ptr.dtype.element_ty), mask=rest_mask
        )


def rope_and_cache(
    qkv_TE: torch.Tensor,
    cos_sin_PR: torch.Tensor | None,
    kv: torch.Tensor,
    batch: Batch,
    layout: KVLayout,
    device: Device,
    kv_scales: tuple[float, float] = (1.0, 1.0),
) -> None:
    """Rotate the queries in place, and write rotated keys and plain values to the pool of one
    layer, kv[2, blocks, G, block_size, K].

    Keys in qkv stay as they were: nothing reads them again, and the write would cost as much as
    the pool's. `cos_sin_PR` may be narrower than a head, or None: only so many of its first
    dimensions turn. Tokens with slot -1 are not written. An fp8 pool holds keys and values divided
    by `kv_scales`.
    """
    dim, rotary = layout.head_dim, 0 if cos_sin_PR is None else cos_sin_PR.shape[1]
    num_heads = qkv_TE.shape[1] // dim - 2 * layout.num_kv_heads
    assert qkv_TE.stride(1) == 1 and kv.is_contiguous()
    assert cos_sin_PR is None or cos_sin_PR.is_contiguous()
    _rope_and_cache[(len(qkv_TE), triton.cdiv(qkv_TE.shape[1] // dim, _HEADS))](
        qkv_TE,
        cos_sin_PR,
        kv,
        batch.positions_T,
        batch.slots_T,
        qkv_TE.stride(0),
        kv.stride(0),
        1 / kv_scales[0],
        1 / kv_scales[1],
        NUM_HEADS=num_heads,
        NUM_KV_HEADS=layout.num_kv_heads,
        BLOCK_SIZE=layout.block_size,
        K=dim,
        HALF=rotary // 2,
        HALF_BLOCK=triton.next_power_of_2(max(rotary // 2, 1)),
        REST_BLOCK=triton.next_power_of_2(max(dim - rotary, 1)),
        HEADS=_HEADS,
        OVERLAP=device.overlaps_launches,
        num_warps=4,
        **device.launch_options,
    )
