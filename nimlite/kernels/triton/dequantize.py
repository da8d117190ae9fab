"""Weights of 4 and 8 bits widened to 16, for products of so many rows that a library does best."""

import torch
import triton
import triton.language as tl

from nimlite.kernels.triton.device import Device, await_inputs
from nimlite.kernels.triton.weight_only import BITS, WORDS, field_values, group_size
from nimlite.quant.base import PackedWeight


@triton.jit
def _dequantize(
    w_ptr,
    scale_ptr,
    zero_ptr,
    y_ptr,
    num_outputs,
    num_columns,
    num_groups,
    w_stride,
    BITS: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    await_inputs(OVERLAP)
    FIELDS: tl.constexpr = 16 // BITS
    block = tl.program_id(0)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    j = tl.arange(0, 32)
    exists = (n < num_outputs)[:, None]
    rows = n[:, None].to(tl.int64)
    words = tl.load(w_ptr + rows * w_stride + block * 32 + j[None, :], mask=exists, other=0)
    for i in tl.static_range(FIELDS):
        first = (block * FIELDS + i) * 32
        group = 0
        if GROUP_SIZE > 0:
            group = tl.minimum(first // GROUP_SIZE, num_groups - 1)
        beside = group * num_outputs + n[:, None]
        scale = tl.load(scale_ptr + beside, mask=exists, other=0.0).to(tl.float32)
        zero = 0.0
        if BITS == 4:
            zero = tl.load(zero_ptr + beside, mask=exists, other=0).to(tl.float32)
        y = field_values(words, zero, BITS, i, False) * scale
        columns = first + j[None, :]
        y_ptrs = y_ptr + rows * num_columns + columns
        tl.store(y_ptrs, y.to(y_ptr.dtype.element_ty), mask=exists & (columns < num_columns))


def dequantize(weight: PackedWeight, dtype: torch.dtype, device: Device) -> torch.Tensor:
    """The weight [N, C] in 16 bits: what a library's product of many rows needs."""
    words_NW, scale_GN = weight.tensors["weight"].view(torch.int16), weight.tensors["scale"]
    shape = (weight.num_rows, weight.num_columns)
    y_NC = torch.empty(shape, dtype=dtype, device=words_NW.device)
    num_groups, block_n = len(scale_GN), 64
    grid = (words_NW.shape[1] // WORDS, triton.cdiv(weight.num_rows, block_n))
    _dequantize[grid](
        words_NW,
        scale_GN,
        weight.tensors.get("zero"),
        y_NC,
        weight.num_rows,
        weight.num_columns,
        num_groups,
        words_NW.stride(0),
        BITS=BITS[weight.scheme],
        GROUP_SIZE=group_size(weight),
        BLOCK_N=block_n,
        OVERLAP=device.overlaps_launches,
        num_warps=4,
        **device.launch_options,
    )
    return y_NC
