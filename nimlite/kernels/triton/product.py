"""x @ weight.T by whichever kernel, or library, serves the weight's format and the rows of x."""

import functools

import torch
from torch.nn import functional

from nimlite.kernels.triton.dequantize import dequantize
from nimlite.kernels.triton.device import Device
from nimlite.kernels.triton.linear import (
    ROW_BUCKETS,
    LinearConfig,
    LinearWorkspace,
    linear,
    linear_candidates,
)
from nimlite.kernels.triton.scaled_rows import (
    ScaledRows,
    UnsummedRows,
    quantize_rows,
    rounded_dtype,
    scale_product,
)
from nimlite.kernels.triton.weight_only import BITS, weight_only_candidates, weight_only_linear
from nimlite.quant.base import PackedWeight

_INT8_BUCKETS = (*ROW_BUCKETS, 512, 2048)
"""Of int8 by int8, whose sums must be scaled behind a library; the last stands for all that are
more."""
_WEIGHT_ONLY_BUCKETS = (1, 8, *_INT8_BUCKETS[1:])
"""Of weights that a library must have widened first: up to 8 rows the tensor cores do the least."""
_MAX_UNSCALED = 512
"""Rows up to which cuBLAS is faster with one scale for all (H200, torch 2.11)."""
_LEAST_LIBRARY_INT8 = 17
"""Rows that cuBLAS multiplies in int8."""


def row_buckets(scheme: str) -> tuple[int, ...]:
    """Rows of x up to which a choice is made for itself."""
    if scheme in BITS:
        return _WEIGHT_ONLY_BUCKETS
    return _INT8_BUCKETS if scheme == "int8_rows" else ROW_BUCKETS


def bucket(scheme: str, num_rows: int) -> int | None:
    """The smallest bucket that holds so many rows; None: a library multiplies them."""
    buckets = row_buckets(scheme)
    most = None if buckets is ROW_BUCKETS else buckets[-1]
    return next((rows for rows in buckets if num_rows <= rows), most)


def is_vector(config: LinearConfig | None) -> bool:
    """Whether it multiplies one row in registers: of 16 bits also with weights of 8."""
    return config is not None and config.vector


def library_serves(weight: PackedWeight, num_rows: int) -> bool:
    """Whether cuBLAS has a product for so many rows."""
    return rounded_dtype(weight) != torch.int8 or num_rows >= _LEAST_LIBRARY_INT8


def library_linear(
    x: torch.Tensor | ScaledRows,
    weight: PackedWeight,
    bias_N: torch.Tensor | None,
    workspace: LinearWorkspace,
    device: Device,
    dtype: torch.dtype,
    *,
    sums: bool = True,
) -> torch.Tensor | UnsummedRows:
    """y_TN by cuBLAS. Without `sums`, few rows of fp8 and all of int8 are left unscaled, which is
    faster.

    Fast accumulation adds 0.3 % to fp8's own error of 3.7 %, and saves 10 to 20 %.
    """
    bias_N = None if bias_N is None else bias_N.to(dtype)
    if isinstance(x, torch.Tensor):
        w_NC = weight.tensors["weight"]
        if weight.scheme in BITS:
            w_NC = dequantize(weight, x.dtype, device)
        if dtype == x.dtype:
            return functional.linear(x, w_NC, bias_N)
        y_TN = _widened(x, w_NC, dtype)
        return y_TN if bias_N is None else y_TN + bias_N
    sums = sums or bias_N is not None
    if x.values_TC.dtype == torch.int8:
        return _int8_linear(x, weight, bias_N, device, dtype, sums=sums)
    multiply = functools.partial(
        torch._scaled_mm,
        x.values_TC,
        weight.tensors["weight"].t(),
        out_dtype=dtype,
        use_fast_accum=True,
    )
    w_scale_N = weight.tensors["scale"]
    # unscaled sums reach 1e9: too much for fp16
    has_range = dtype == torch.bfloat16
    if not sums and has_range and len(x.values_TC) <= _MAX_UNSCALED:
        one = workspace.one
        y_TN = multiply(scale_a=one, scale_b=one)
        return UnsummedRows(y_TN.unsqueeze(0), x.scale_T1, w_scale_N)
    return multiply(scale_a=x.scale_T1, scale_b=w_scale_N.unsqueeze(0), bias=bias_N)


def _int8_linear(
    x: ScaledRows,
    weight: PackedWeight,
    bias_N: torch.Tensor | None,
    device: Device,
    dtype: torch.dtype,
    *,
    sums: bool,
) -> torch.Tensor | UnsummedRows:
    sums_TN = torch._int_mm(x.values_TC, weight.tensors["weight"].t())
    w_scale_N = weight.tensors["scale"]
    if not sums:
        return UnsummedRows(sums_TN.unsqueeze(0), x.scale_T1, w_scale_N)
    return scale_product(sums_TN, x.scale_T1, w_scale_N, bias_N, dtype, device)


def _widened(x_TC: torch.Tensor, w_NC: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The product's sums as they are, not rounded to the type of its operands."""
    if x_TC.device.type == "cuda":
        return torch.mm(x_TC, w_NC.t(), out_dtype=dtype)
    return functional.linear(x_TC.to(dtype), w_NC.to(dtype))


def product(
    x: torch.Tensor | ScaledRows,
    weight: PackedWeight,
    bias_N: torch.Tensor | None,
    config: LinearConfig | None,
    workspace: LinearWorkspace,
    device: Device,
    dtype: torch.dtype,
    *,
    sums: bool,
    compile_only: bool = False,
) -> torch.Tensor | UnsummedRows:
    """By the kernel of the weight's scheme and its configuration, or the library where there is
    none. x is brought into the order of a weight's sorted columns, and rounded where that is what
    it is multiplied as."""
    if (order_C := weight.tensors.get("order")) is not None:
        assert isinstance(x, torch.Tensor)
        x = x.index_select(1, order_C)
    rounded = rounded_dtype(weight)
    if rounded is not None and isinstance(x, torch.Tensor) and not is_vector(config):
        x = quantize_rows(x, rounded, device)
    if config is None:
        return library_linear(x, weight, bias_N, workspace, device, dtype, sums=sums)
    rest = (weight, bias_N, config, workspace, device, dtype)
    if weight.scheme in BITS:
        assert isinstance(x, torch.Tensor)
        return weight_only_linear(x, *rest, sums=sums, compile_only=compile_only)
    return linear(x, *rest, sums=sums, compile_only=compile_only)


def candidates(
    num_rows: int,
    weight: PackedWeight,
    workspace: LinearWorkspace,
    device: Device,
    *,
    sums: bool = True,
) -> list[LinearConfig]:
    """Configurations of the scheme's kernel worth measuring for so many rows, the likely best
    first. Without `sums`, only those that split."""
    find = weight_only_candidates if weight.scheme in BITS else linear_candidates
    return find(num_rows, weight, workspace, device, sums=sums)
