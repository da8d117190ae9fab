"""What some models do to a tensor in place: add a row, cut off, bend, norm each head."""

import torch
import triton
import triton.language as tl

from nimlite.kernels.base import KVLayout
from nimlite.kernels.triton.device import Device, await_inputs
from nimlite.kernels.triton.scaled_rows import row_block
from nimlite.kernels.triton.softmax import capped

_BLOCK = 2048
_HEADS = 16
"""Heads of one token that a program norms."""


@triton.jit
def _add(
    x_ptr, y_ptr, index_ptr, y_stride, num_columns, BLOCK: tl.constexpr, OVERLAP: tl.constexpr
):
    await_inputs(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < num_columns
    added = row
    if index_ptr is not None:
        added = tl.load(index_ptr + row).to(tl.int64)
    y = tl.load(y_ptr + added * y_stride + columns, mask=mask, other=0.0).to(tl.float32)
    pointers = x_ptr + row * num_columns + columns
    x = tl.load(pointers, mask=mask, other=0.0).to(tl.float32) + y
    tl.store(pointers, x.to(x_ptr.dtype.element_ty), mask=mask)


def add(
    x_TD: torch.Tensor, y_PD: torch.Tensor, device: Device, rows_T: torch.Tensor | None = None
) -> None:
    """x += y, or the rows `rows_T` of y; in place."""
    num_rows, num_columns = x_TD.shape
    assert x_TD.is_contiguous() and y_PD.stride(1) == 1
    _add[(num_rows,)](
        x_TD,
        y_PD,
        rows_T,
        y_PD.stride(0),
        num_columns,
        **row_block(num_columns),
        OVERLAP=device.overlaps_launches,
        **device.launch_options,
    )


@triton.jit
def _limit(
    x_ptr, limit, num_elements, SOFT: tl.constexpr, BLOCK: tl.constexpr, OVERLAP: tl.constexpr
):
    await_inputs(OVERLAP)
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = index < num_elements
    x = tl.load(x_ptr + index, mask=mask, other=0.0).to(tl.float32)
    x = capped(x, limit) if SOFT else tl.minimum(tl.maximum(x, -limit), limit)
    tl.store(x_ptr + index, x.to(x_ptr.dtype.element_ty), mask=mask)


def limit(x: torch.Tensor, most: float, device: Device, *, soft: bool) -> None:
    """Cut off at ± `most`, or bent to lie within (most * tanh(x / most)) where `soft`; in place."""
    assert x.is_contiguous()
    _limit[(triton.cdiv(x.numel(), _BLOCK),)](
        x,
        most,
        x.numel(),
        SOFT=soft,
        BLOCK=_BLOCK,
        OVERLAP=device.overlaps_launches,
        num_warps=4,
        **device.launch_options,
    )


@triton.jit
def _norm_heads(
    qkv_ptr,
    query_ptr,
    key_ptr,
    qkv_stride,
    eps,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    K: tl.constexpr,
    K_BLOCK: tl.constexpr,
    HEADS: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    columns = tl.arange(0, K_BLOCK)
    column_mask = columns < K
    query = tl.load(query_ptr + columns, mask=column_mask, other=0.0)
    key = tl.load(key_ptr + columns, mask=column_mask, other=0.0)
    await_inputs(OVERLAP)
    heads = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    mask = (heads < NUM_HEADS + NUM_KV_HEADS)[:, None] & column_mask[None, :]
    row = qkv_ptr + tl.program_id(0).to(tl.int64) * qkv_stride
    pointers = row + heads[:, None] * K + columns[None, :]
    x = tl.load(pointers, mask=mask, other=0.0).to(tl.float32)
    weight = tl.where((heads < NUM_HEADS)[:, None], query[None, :], key[None, :])
    x = x * tl.rsqrt(tl.sum(x * x, axis=1) / K + eps)[:, None] * weight
    tl.store(pointers, x.to(qkv_ptr.dtype.element_ty), mask=mask)


def norm_heads(
    qkv_TE: torch.Tensor,
    query_K: torch.Tensor,
    key_K: torch.Tensor,
    eps: float,
    layout: KVLayout,
    device: Device,
) -> None:
    """RMSNorm of each query head and each key head by these weights, in place."""
    dim = layout.head_dim
    num_heads = qkv_TE.shape[1] // dim - 2 * layout.num_kv_heads
    assert qkv_TE.stride(1) == 1
    _norm_heads[(len(qkv_TE), triton.cdiv(num_heads + layout.num_kv_heads, _HEADS))](
        qkv_TE,
        query_K,
        key_K,
        qkv_TE.stride(0),
        eps,
        NUM_HEADS=num_heads,
        NUM_KV_HEADS=layout.num_kv_heads,
        K=dim,
        K_BLOCK=triton.next_power_of_2(dim),
        HEADS=_HEADS,
        OVERLAP=device.overlaps_launches,
        num_warps=4,
        **device.launch_options,
    )
