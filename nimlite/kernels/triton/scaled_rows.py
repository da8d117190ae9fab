"""Rows of fp8 e4m3 or int8 with one scale a row: what linears of such weights multiply."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from nimlite.kernels.triton.device import Device, await_inputs
from nimlite.quant.base import PackedWeight

FP8 = torch.float8_e4m3fn
LARGEST = {FP8: 448.0, torch.int8: 127.0}
"""What the largest value of a row is mapped to."""


@dataclass(frozen=True, slots=True)
class ScaledRows:
    """x_TC = values_TC * scale_T1."""

    values_TC: torch.Tensor
    """fp8 e4m3 or int8."""
    scale_T1: torch.Tensor
    """fp32."""

    @classmethod
    def empty(cls, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> "ScaledRows":
        """Not yet written, of shape [T, C]."""
        values = torch.empty(shape, dtype=dtype, device=device)
        return cls(values, torch.empty((shape[0], 1), dtype=torch.float32, device=device))


def rounded_dtype(weight: PackedWeight | None) -> torch.dtype | None:
    """What the rows that it is multiplied with are rounded to; None: they are not."""
    return _ROUNDED.get(weight.scheme) if weight is not None else None


_ROUNDED = {"fp8_rows": FP8, "int8_rows": torch.int8}


@dataclass(frozen=True, slots=True)
class UnsummedRows:
    """y_TN = the sum of the parts, in their order, * row_scale_T1 * column_scale_N: a product that
    whoever reads it next finishes."""

    parts_PTN: torch.Tensor
    row_scale_T1: torch.Tensor | None
    column_scale_N: torch.Tensor | None
    """fp32; with rows that were not rounded, this one alone."""

    def summed(self) -> torch.Tensor:
        """fp32 y_TN, by torch: where it is read but once a step."""
        y_TN = self.parts_PTN.float().sum(0)
        if self.row_scale_T1 is None or self.column_scale_N is None:
            return y_TN
        return y_TN * self.row_scale_T1.view(-1, 1) * self.column_scale_N


@triton.jit
def store_row(y, y_ptr, scale_ptr, row, columns, mask, num_columns, QUANTIZE: tl.constexpr):
    """Store one fp32 row; or its fp8 or int8 with the scale that maps its absolute maximum to the
    format's."""
    pointers = y_ptr + row.to(tl.int64) * num_columns + columns
    if QUANTIZE:
        IS_INT: tl.constexpr = y_ptr.dtype.element_ty == tl.int8
        LARGEST: tl.constexpr = 127.0 if IS_INT else 448.0
        absmax = tl.maximum(tl.max(tl.abs(tl.where(mask, y, 0.0)), axis=0), 1e-12)
        tl.store(scale_ptr + row, absmax / LARGEST)
        y = tl.minimum(tl.maximum(y * (LARGEST / absmax), -LARGEST), LARGEST)
        if IS_INT:
            # 1.5 * 2^23: the sum has no room for a fraction, and is rounded half to even
            y = (y + 12582912.0) - 12582912.0
    tl.store(pointers, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _quantize_rows(
    x_ptr, y_ptr, scale_ptr, x_stride, num_columns, BLOCK: tl.constexpr, OVERLAP: tl.constexpr
):
    await_inputs(OVERLAP)
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    mask = columns < num_columns
    x = tl.load(x_ptr + row.to(tl.int64) * x_stride + columns, mask=mask, other=0.0)
    store_row(x.to(tl.float32), y_ptr, scale_ptr, row, columns, mask, num_columns, True)


def quantize_rows(x_TC: torch.Tensor, dtype: torch.dtype, device: Device) -> ScaledRows:
    """Round each row to fp8 e4m3 with the scale absmax / 448, or to int8 with absmax / 127."""
    num_rows, num_columns = x_TC.shape
    y = ScaledRows.empty(x_TC.shape, dtype, x_TC.device)
    _quantize_rows[(num_rows,)](
        x_TC,
        y.values_TC,
        y.scale_T1,
        x_TC.stride(0),
        num_columns,
        **row_block(num_columns),
        OVERLAP=device.overlaps_launches,
        **device.launch_options,
    )
    return y


def row_block(num_columns: int) -> dict[str, int]:
    """Block and warps of a kernel that holds a whole row in registers: about 16 values a thread."""
    block = triton.next_power_of_2(num_columns)
    return {"BLOCK": block, "num_warps": min(max(block // 512, 1), 16)}


@triton.jit
def _scale_product(
    sums_ptr,
    row_scale_ptr,
    column_scale_ptr,
    bias_ptr,
    y_ptr,
    num_columns,
    BIAS: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    await_inputs(OVERLAP)
    row = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < num_columns
    first = row.to(tl.int64) * num_columns
    y = tl.load(sums_ptr + first + columns, mask=mask, other=0).to(tl.float32)
    scale = tl.load(column_scale_ptr + columns, mask=mask, other=0.0)
    y *= tl.load(row_scale_ptr + row) * scale
    if BIAS:
        y += tl.load(bias_ptr + columns, mask=mask, other=0.0).to(tl.float32)
    tl.store(y_ptr + first + columns, y.to(y_ptr.dtype.element_ty), mask=mask)


def scale_product(
    sums_TN: torch.Tensor,
    row_scale_T1: torch.Tensor,
    column_scale_N: torch.Tensor,
    bias_N: torch.Tensor | None,
    dtype: torch.dtype,
    device: Device,
) -> torch.Tensor:
    """sums_TN (int32) * row_scale_T1 * column_scale_N + bias_N in `dtype`."""
    y_TN = torch.empty(sums_TN.shape, dtype=dtype, device=sums_TN.device)
    num_rows, num_columns = sums_TN.shape
    block = 2048
    _scale_product[(num_rows, triton.cdiv(num_columns, block))](
        sums_TN,
        row_scale_T1,
        column_scale_N,
        bias_N,
        y_TN,
        num_columns,
        BIAS=bias_N is not None,
        BLOCK=block,
        OVERLAP=device.overlaps_launches,
        num_warps=4,
        **device.launch_options,
    )
    return y_TN
