"""Rows of fp8 e4m3 with one scale a row: what fp8 linears multiply."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from nimlite.kernels.triton.device import Device, await_inputs
from nimlite.quant.base import PackedWeight

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0


@dataclass(frozen=True, slots=True)
class ScaledRows:
    """x_TC = values_TC * scale_T1."""

    values_TC: torch.Tensor
    """fp8 e4m3."""
    scale_T1: torch.Tensor
    """fp32."""

    @classmethod
    def empty(cls, shape: Sequence[int], device: torch.device) -> "ScaledRows":
        """Not yet written, of shape [T, C]."""
        values = torch.empty(shape, dtype=FP8, device=device)
        return cls(values, torch.empty((shape[0], 1), dtype=torch.float32, device=device))


def takes_fp8(weight: PackedWeight | None) -> bool:
    """Whether it is multiplied with `ScaledRows`."""
    return weight is not None and weight.scheme == "fp8_rows"


@dataclass(frozen=True, slots=True)
class UnsummedRows:
    """y_TN = the sum of the parts, in their order, * row_scale_T1 * column_scale_N: a product that
    whoever reads it next finishes."""

    parts_PTN: torch.Tensor
    row_scale_T1: torch.Tensor | None
    column_scale_N: torch.Tensor | None
    """fp32; both scales or neither."""


@triton.jit
def store_row(y, y_ptr, scale_ptr, row, columns, mask, num_columns, QUANTIZE: tl.constexpr):
    """Store one fp32 row, or its fp8 with the scale that maps its absolute maximum to 448."""
    pointers = y_ptr + row.to(tl.int64) * num_columns + columns
    if QUANTIZE:
        absmax = tl.maximum(tl.max(tl.abs(tl.where(mask, y, 0.0)), axis=0), 1e-12)
        tl.store(scale_ptr + row, absmax / 448.0)
        y = tl.minimum(tl.maximum(y * (448.0 / absmax), -448.0), 448.0)
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


def quantize_rows(x_TC: torch.Tensor, device: Device) -> ScaledRows:
    """Round each row to fp8 e4m3 with the scale absmax / 448."""
    num_rows, num_columns = x_TC.shape
    y = ScaledRows.empty(x_TC.shape, x_TC.device)
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
