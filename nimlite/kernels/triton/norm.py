"""RMSNorm and LayerNorm, alone or after the residual addition, one program a token; also to
fp8 or int8 rows.

What is added may be a product that is not summed up yet.
"""

import torch
import triton
import triton.language as tl

from nimlite.kernels.triton.device import Device, await_inputs
from nimlite.kernels.triton.scaled_rows import (
    ScaledRows,
    UnsummedRows,
    rounded_dtype,
    row_block,
    store_row,
)
from nimlite.quant.base import PackedWeight


@triton.jit
def normalize(x, weight, bias, mask, num_columns, eps, CENTER: tl.constexpr):
    """x / rms(x) * weight + bias of one fp32 row, zero beyond its columns; with CENTER its mean is
    taken off first."""
    if CENTER:
        x = tl.where(mask, x - tl.sum(x, axis=0) / num_columns, 0.0)
    mean_square = tl.sum(x * x, axis=0) / num_columns
    return x * tl.rsqrt(mean_square + eps) * weight + bias


@triton.jit
def _norm(
    x_ptr,
    residual_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    scale_ptr,
    x_row_scale_ptr,
    x_column_scale_ptr,
    x_stride,
    part_stride,
    num_columns,
    eps,
    PARTS: tl.constexpr,
    ADD: tl.constexpr,
    CENTER: tl.constexpr,
    QUANTIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    mask = columns < num_columns
    # no kernel writes it: read while the one before still runs
    weight = tl.load(weight_ptr + columns, mask=mask, other=0.0).to(tl.float32)
    bias = 0.0
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + columns, mask=mask, other=0.0).to(tl.float32)
    if x_column_scale_ptr is not None:
        scale = tl.load(x_column_scale_ptr + columns, mask=mask, other=0.0)
    await_inputs(OVERLAP)
    pointers = x_ptr + row.to(tl.int64) * x_stride + columns
    x = tl.load(pointers, mask=mask, other=0.0).to(tl.float32)
    for part in tl.static_range(1, PARTS):
        x += tl.load(pointers + part * part_stride, mask=mask, other=0.0).to(tl.float32)
    if x_column_scale_ptr is not None:
        x *= scale
    if x_row_scale_ptr is not None:
        x *= tl.load(x_row_scale_ptr + row)
    if ADD:
        pointers = residual_ptr + row.to(tl.int64) * num_columns + columns
        total = x + tl.load(pointers, mask=mask, other=0.0).to(tl.float32)
        rounded = total.to(residual_ptr.dtype.element_ty)
        tl.store(pointers, rounded, mask=mask)
        x = rounded.to(tl.float32)
    y = normalize(x, weight, bias, mask, num_columns, eps, CENTER)
    store_row(y, y_ptr, scale_ptr, row, columns, mask, num_columns, QUANTIZE)


def rms_norm(
    x_TD: torch.Tensor,
    weight_D: torch.Tensor,
    eps: float,
    device: Device,
    consumer: PackedWeight | None = None,
    dtype: torch.dtype | None = None,
) -> torch.Tensor | ScaledRows:
    """x / rms(x) * weight, in `dtype` (x's, if None); in rounded rows if that is what `consumer`,
    the weight that it is multiplied with, takes."""
    return _launch(x_TD, None, weight_D, None, False, eps, dtype, device, consumer)


def add_rms_norm(
    x: torch.Tensor | UnsummedRows,
    residual_TD: torch.Tensor,
    weight_D: torch.Tensor,
    eps: float,
    device: Device,
    consumer: PackedWeight | None = None,
    dtype: torch.dtype | None = None,
) -> torch.Tensor | ScaledRows:
    """residual += x in place (rounded to the residual's dtype), then its norm in `dtype` (x's, if
    None) or in rounded rows, as for `rms_norm`."""
    return _launch(x, residual_TD, weight_D, None, False, eps, dtype, device, consumer)


def layer_norm(
    x_TD: torch.Tensor,
    weight_D: torch.Tensor,
    bias_D: torch.Tensor | None,
    eps: float,
    device: Device,
    consumer: PackedWeight | None = None,
    dtype: torch.dtype | None = None,
) -> torch.Tensor | ScaledRows:
    """(x - mean) / deviation * weight + bias, as for `rms_norm`."""
    return _launch(x_TD, None, weight_D, bias_D, True, eps, dtype, device, consumer)


def add_layer_norm(
    x: torch.Tensor | UnsummedRows,
    residual_TD: torch.Tensor,
    weight_D: torch.Tensor,
    bias_D: torch.Tensor | None,
    eps: float,
    device: Device,
    consumer: PackedWeight | None = None,
    dtype: torch.dtype | None = None,
) -> torch.Tensor | ScaledRows:
    """The same after residual += x, as for `add_rms_norm`."""
    return _launch(x, residual_TD, weight_D, bias_D, True, eps, dtype, device, consumer)


def _launch(
    x: torch.Tensor | UnsummedRows,
    residual_TD: torch.Tensor | None,
    weight_D: torch.Tensor,
    bias_D: torch.Tensor | None,
    center: bool,
    eps: float,
    dtype: torch.dtype | None,
    device: Device,
    consumer: PackedWeight | None,
) -> torch.Tensor | ScaledRows:
    if isinstance(x, torch.Tensor):
        x = UnsummedRows(x.unsqueeze(0), None, None)
    num_parts, num_rows, num_columns = x.parts_PTN.shape
    assert residual_TD is None or residual_TD.is_contiguous()
    shape, where = (num_rows, num_columns), x.parts_PTN.device
    y: torch.Tensor | ScaledRows
    if (rounded := rounded_dtype(consumer)) is not None:
        y = ScaledRows.empty(shape, rounded, where)
        y_TD, y_scale_T1 = y.values_TC, y.scale_T1
    else:
        y = torch.empty(shape, dtype=dtype or x.parts_PTN.dtype, device=where)
        y_TD, y_scale_T1 = y, None
    _norm[(num_rows,)](
        x.parts_PTN,
        residual_TD,
        weight_D,
        bias_D,
        y_TD,
        y_scale_T1,
        x.row_scale_T1,
        x.column_scale_N,
        x.parts_PTN.stride(1),
        x.parts_PTN.stride(0),
        num_columns,
        eps,
        PARTS=num_parts,
        ADD=residual_TD is not None,
        CENTER=center,
        QUANTIZE=y_scale_T1 is not None,
        **row_block(num_columns),
        OVERLAP=device.overlaps_launches,
        **device.launch_options,
    )
    return y
