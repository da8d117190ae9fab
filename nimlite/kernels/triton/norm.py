"""RMSNorm, alone or after the residual addition, one program a token; also to fp8 rows."""

import torch
import triton
import triton.language as tl

from nimlite.kernels.triton.device import Device, await_inputs
from nimlite.kernels.triton.fp8 import ScaledRows, row_block, store_row


@triton.jit
def normalize(x, weight_ptr, columns, mask, num_columns, eps):
    """x / rms(x) * weight of one fp32 row (zero where not `mask`)."""
    mean_square = tl.sum(x * x, axis=0) / num_columns
    weight = tl.load(weight_ptr + columns, mask=mask, other=0.0).to(tl.float32)
    return x * tl.rsqrt(mean_square + eps) * weight


@triton.jit
def _rms_norm(
    x_ptr,
    residual_ptr,
    weight_ptr,
    y_ptr,
    scale_ptr,
    x_stride,
    num_columns,
    eps,
    ADD: tl.constexpr,
    QUANTIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    await_inputs(OVERLAP)
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    mask = columns < num_columns
    x = tl.load(x_ptr + row.to(tl.int64) * x_stride + columns, mask=mask, other=0.0).to(tl.float32)
    if ADD:
        pointers = residual_ptr + row.to(tl.int64) * num_columns + columns
        total = x + tl.load(pointers, mask=mask, other=0.0).to(tl.float32)
        rounded = total.to(residual_ptr.dtype.element_ty)
        tl.store(pointers, rounded, mask=mask)
        x = rounded.to(tl.float32)
    y = normalize(x, weight_ptr, columns, mask, num_columns, eps)
    store_row(y, y_ptr, scale_ptr, row, columns, mask, num_columns, QUANTIZE)


def rms_norm(
    x_TD: torch.Tensor, weight_D: torch.Tensor, eps: float, device: Device
) -> torch.Tensor:
    """x / rms(x) * weight, in x's dtype."""
    y_TD = torch.empty_like(x_TD, memory_format=torch.contiguous_format)
    _launch(x_TD, None, weight_D, eps, y_TD, None, device)
    return y_TD


def add_rms_norm(
    x_TD: torch.Tensor,
    residual_TD: torch.Tensor,
    weight_D: torch.Tensor,
    eps: float,
    device: Device,
) -> torch.Tensor:
    """residual += x in place (rounded to the residual's dtype), then its norm in x's dtype."""
    y_TD = torch.empty_like(x_TD, memory_format=torch.contiguous_format)
    _launch(x_TD, residual_TD, weight_D, eps, y_TD, None, device)
    return y_TD


def rms_norm_fp8(
    x_TD: torch.Tensor, weight_D: torch.Tensor, eps: float, device: Device
) -> ScaledRows:
    """`rms_norm` rounded to fp8 rows."""
    y = ScaledRows.empty(x_TD.shape, x_TD.device)
    _launch(x_TD, None, weight_D, eps, y.values_TC, y.scale_T1, device)
    return y


def add_rms_norm_fp8(
    x_TD: torch.Tensor,
    residual_TD: torch.Tensor,
    weight_D: torch.Tensor,
    eps: float,
    device: Device,
) -> ScaledRows:
    """`add_rms_norm` rounded to fp8 rows."""
    y = ScaledRows.empty(x_TD.shape, x_TD.device)
    _launch(x_TD, residual_TD, weight_D, eps, y.values_TC, y.scale_T1, device)
    return y


def _launch(
    x_TD: torch.Tensor,
    residual_TD: torch.Tensor | None,
    weight_D: torch.Tensor,
    eps: float,
    y_TD: torch.Tensor,
    scale_T1: torch.Tensor | None,
    device: Device,
) -> None:
    num_rows, num_columns = x_TD.shape
    assert residual_TD is None or residual_TD.is_contiguous()
    _rms_norm[(num_rows,)](
        x_TD,
        residual_TD,
        weight_D,
        y_TD,
        scale_T1,
        x_TD.stride(0),
        num_columns,
        eps,
        ADD=residual_TD is not None,
        QUANTIZE=scale_T1 is not None,
        **row_block(num_columns),
        OVERLAP=device.overlaps_launches,
        **device.launch_options,
    )
