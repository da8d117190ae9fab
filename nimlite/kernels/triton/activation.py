"""activation(gate) * up of a gated MLP, or activation(x) of a plain one; the result as it is or in
fp8 or int8 rows."""

import torch
import triton
import triton.language as tl

from nimlite.kernels.triton.device import Device, await_inputs
from nimlite.kernels.triton.scaled_rows import ScaledRows, rounded_dtype, row_block, store_row
from nimlite.quant.base import PackedWeight

_BLOCK = 2048
ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu", "relu2")


@triton.jit
def activate(x, ACTIVATION: tl.constexpr):
    """silu, gelu (erf), gelu_tanh, relu or its square, of fp32 values."""
    if ACTIVATION == "silu":
        return x * tl.sigmoid(x)
    elif ACTIVATION == "gelu":
        return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif ACTIVATION == "relu":
        return tl.maximum(x, 0.0)
    elif ACTIVATION == "relu2":
        return tl.maximum(x, 0.0) * tl.maximum(x, 0.0)
    else:
        # tanh(u) = 2 sigmoid(2 u) - 1
        return x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))


@triton.jit
def _activate(
    x_ptr,
    y_ptr,
    scale_ptr,
    row_stride,
    num_columns,
    ACTIVATION: tl.constexpr,
    GATED: tl.constexpr,
    QUANTIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    await_inputs(OVERLAP)
    row = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < num_columns
    row_ptr = x_ptr + row.to(tl.int64) * row_stride + columns
    y = activate(tl.load(row_ptr, mask=mask, other=0.0).to(tl.float32), ACTIVATION)
    if GATED:
        y *= tl.load(row_ptr + num_columns, mask=mask, other=0.0).to(tl.float32)
    store_row(y, y_ptr, scale_ptr, row, columns, mask, num_columns, QUANTIZE)


def gated_activation(
    gate_up_T2I: torch.Tensor,
    activation: str,
    device: Device,
    consumer: PackedWeight | None = None,
) -> torch.Tensor | ScaledRows:
    """activation(gate) * up: y_TI in the dtype of its input; in rounded rows if that is what
    `consumer`, the weight that it is multiplied with, takes."""
    return _launch(gate_up_T2I, activation, gate_up_T2I.shape[1] // 2, device, consumer)


def plain_activation(
    x_TI: torch.Tensor, activation: str, device: Device, consumer: PackedWeight | None = None
) -> torch.Tensor | ScaledRows:
    """activation(x): y_TI, as for `gated_activation`."""
    return _launch(x_TI, activation, x_TI.shape[1], device, consumer)


def _launch(
    x: torch.Tensor,
    activation: str,
    num_columns: int,
    device: Device,
    consumer: PackedWeight | None,
) -> torch.Tensor | ScaledRows:
    assert activation in ACTIVATIONS, activation
    num_rows, width = x.shape
    y: torch.Tensor | ScaledRows
    if (rounded := rounded_dtype(consumer)) is not None:
        y = ScaledRows.empty((num_rows, num_columns), rounded, x.device)
        y_TI, scale_T1 = y.values_TC, y.scale_T1
        # one program a row, for the row's maximum
        shape, programs = row_block(num_columns), 1
    else:
        y = x.new_empty((num_rows, num_columns))
        y_TI, scale_T1 = y, None
        shape, programs = {"BLOCK": _BLOCK, "num_warps": 4}, triton.cdiv(num_columns, _BLOCK)
    _activate[(num_rows, programs)](
        x,
        y_TI,
        scale_T1,
        x.stride(0),
        num_columns,
        ACTIVATION=activation,
        GATED=width > num_columns,
        QUANTIZE=scale_T1 is not None,
        **shape,
        OVERLAP=device.overlaps_launches,
        **device.launch_options,
    )
    return y
