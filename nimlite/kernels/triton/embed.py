"""The embedding's rows, alone or with the first norm."""

import torch
import triton
import triton.language as tl

from nimlite.kernels.triton.device import Device, await_inputs
from nimlite.kernels.triton.fp8 import ScaledRows, row_block, store_row
from nimlite.kernels.triton.norm import normalize


@triton.jit
def _embed(
    ids_ptr,
    table_ptr,
    x_ptr,
    weight_ptr,
    y_ptr,
    scale_ptr,
    num_columns,
    eps,
    NORM: tl.constexpr,
    QUANTIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    mask = columns < num_columns
    if NORM:
        weight = tl.load(weight_ptr + columns, mask=mask, other=0.0).to(tl.float32)
    await_inputs(OVERLAP)
    token = tl.load(ids_ptr + row).to(tl.int64)
    x = tl.load(table_ptr + token * num_columns + columns, mask=mask, other=0.0)
    x = x.to(x_ptr.dtype.element_ty)
    tl.store(x_ptr + row.to(tl.int64) * num_columns + columns, x, mask=mask)
    if NORM:
        y = normalize(x.to(tl.float32), weight, num_columns, eps)
        store_row(y, y_ptr, scale_ptr, row, columns, mask, num_columns, QUANTIZE)


def embed(table_VD: torch.Tensor, token_ids_T: torch.Tensor, device: Device) -> torch.Tensor:
    """Rows of the table: x_TD."""
    x_TD = table_VD.new_empty((len(token_ids_T), table_VD.shape[1]))
    _launch(table_VD, token_ids_T, x_TD, None, 0.0, None, None, device)
    return x_TD


def embed_rms_norm(
    table_VD: torch.Tensor,
    token_ids_T: torch.Tensor,
    weight_D: torch.Tensor,
    eps: float,
    device: Device,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of the table, and their norm."""
    x_TD = table_VD.new_empty((len(token_ids_T), table_VD.shape[1]))
    y_TD = torch.empty_like(x_TD)
    _launch(table_VD, token_ids_T, x_TD, weight_D, eps, y_TD, None, device)
    return x_TD, y_TD


def embed_rms_norm_fp8(
    table_VD: torch.Tensor,
    token_ids_T: torch.Tensor,
    weight_D: torch.Tensor,
    eps: float,
    device: Device,
) -> tuple[torch.Tensor, ScaledRows]:
    """Rows of the table, and their norm rounded to fp8 rows."""
    x_TD = table_VD.new_empty((len(token_ids_T), table_VD.shape[1]))
    y = ScaledRows.empty(x_TD.shape, x_TD.device)
    _launch(table_VD, token_ids_T, x_TD, weight_D, eps, y.values_TC, y.scale_T1, device)
    return x_TD, y


def _launch(
    table_VD: torch.Tensor,
    token_ids_T: torch.Tensor,
    x_TD: torch.Tensor,
    weight_D: torch.Tensor | None,
    eps: float,
    y_TD: torch.Tensor | None,
    scale_T1: torch.Tensor | None,
    device: Device,
) -> None:
    assert table_VD.is_contiguous()
    _embed[(len(token_ids_T),)](
        token_ids_T,
        table_VD,
        x_TD,
        weight_D,
        y_TD,
        scale_T1,
        table_VD.shape[1],
        eps,
        NORM=weight_D is not None,
        QUANTIZE=scale_T1 is not None,
        **row_block(table_VD.shape[1]),
        OVERLAP=device.overlaps_launches,
        **device.launch_options,
    )
