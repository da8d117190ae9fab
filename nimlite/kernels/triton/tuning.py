"""Which kernel serves which product on this GPU: measured once, kept as plain data."""

import dataclasses
import functools
import logging
import math
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import triton
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
from nimlite.kernels.triton.norm import add_rms_norm
from nimlite.kernels.triton.scaled_rows import (
    ScaledRows,
    UnsummedRows,
    quantize_rows,
    rounded_dtype,
    scale_product,
)
from nimlite.kernels.triton.weight_only import BITS, weight_only_candidates, weight_only_linear
from nimlite.quant.base import PackedWeight, Scheme

_log = logging.getLogger(__name__)
_MAX_UNSCALED = 512
"""Rows up to which cuBLAS is faster with one scale for all (H200, torch 2.11)."""
_MAX_ADDED = 16384
"""Outputs of a product that may be left unsummed: what `add_rms_norm` holds in registers."""
_ROTATED_BYTES = 256 << 20
"""Of weights that take turns, so that no cache holds the next one."""

Choices = Mapping[str, Mapping[str, Any]]
"""By `choice_key`: config (the fields of a LinearConfig, or None for cuBLAS), microseconds and
library_microseconds; where the sum may be left to the addition that follows, also unsummed: the
configuration for that. JSON can hold it."""


WEIGHT_ONLY_BUCKETS = (*ROW_BUCKETS, 512, 2048)
"""Of weights that a library must have widened first; the last stands for all that are more."""
_LEAST_LIBRARY_INT8 = 17
"""Rows that cuBLAS multiplies in int8."""


def row_buckets(scheme: str) -> tuple[int, ...]:
    """Rows of x up to which a choice is made for itself."""
    return WEIGHT_ONLY_BUCKETS if scheme in BITS else ROW_BUCKETS


def bucket(scheme: str, num_rows: int) -> int | None:
    """The smallest bucket that holds so many rows; None: a library multiplies them."""
    buckets = row_buckets(scheme)
    most = None if buckets is ROW_BUCKETS else buckets[-1]
    return next((rows for rows in buckets if num_rows <= rows), most)


def choice_key(weight: PackedWeight, rows: int) -> str:
    """Such as "fp8_rows 4096x14336 16": scheme, N x C, bucket of rows."""
    return f"{weight.scheme} {weight.num_rows}x{weight.num_columns} {rows}"


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
    none."""
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


def choose(
    shapes: Iterable[tuple[Scheme, int, int]],
    where: torch.device,
    dtype: torch.dtype,
    rows: Sequence[int] | None = None,
) -> dict[str, dict[str, Any]]:
    """Measure (scheme, N, C) on random weights for `rows`, or each bucket of rows. Other work on
    the device disturbs the choice."""
    device, workspace = Device.of(where), LinearWorkspace.allocate(where)
    shapes = list(dict.fromkeys(shapes))
    kinds = {scheme.name: rows or row_buckets(scheme.name) for scheme, _, _ in shapes}
    started = time.monotonic()
    _compile(shapes, kinds, workspace, device, where, dtype)
    compiled = time.monotonic()
    choices: dict[str, dict[str, Any]] = {}
    for scheme, num_rows, num_columns in shapes:
        weights = _weights(scheme, num_rows, num_columns, where)
        for m in kinds[scheme.name]:
            rest = (_rows(m, weights[0], where, dtype, device), weights, workspace, device, dtype)
            choice = _fastest(*rest, sums=True)
            if num_rows <= _MAX_ADDED:
                unsummed = _fastest(*rest, sums=False, rival=choice["config"])
                choice["unsummed"] = unsummed["config"]
            choices[choice_key(weights[0], m)] = choice
    _log.info(
        "Kernels of %d products: compiled in %.1f s, compared in %.1f s.",
        len(shapes),
        compiled - started,
        time.monotonic() - compiled,
    )
    return choices


def _fastest(
    x: torch.Tensor | ScaledRows,
    weights: list[PackedWeight],
    workspace: LinearWorkspace,
    device: Device,
    dtype: torch.dtype,
    *,
    sums: bool,
    rival: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The choice, as in `Choices`, of the library, all candidates and a rival's fields; without
    `sums` together with the addition that follows."""
    num_rows = len(x.values_TC) if isinstance(x, ScaledRows) else len(x)
    num_outputs, where = weights[0].num_rows, workspace.one.device
    residual_TN = torch.zeros((num_rows, num_outputs), dtype=torch.float32, device=where)
    norm_N = torch.ones(num_outputs, dtype=torch.float32, device=where)

    def run(weight: PackedWeight, config: LinearConfig | None) -> None:
        y = product(x, weight, None, config, workspace, device, dtype, sums=sums)
        if not sums:
            add_rms_norm(y, residual_TN, norm_N, 1e-5, device, dtype=dtype)

    configs = candidates(num_rows, weights[0], workspace, device, sums=sums)
    if rival is not None:
        configs.append(LinearConfig(**rival))
    library = math.inf
    if rounded_dtype(weights[0]) != torch.int8 or num_rows >= _LEAST_LIBRARY_INT8:
        library = median_microseconds([functools.partial(run, w, None) for w in weights])
    best: tuple[float, LinearConfig | None] = (library, None)
    for config in configs:
        taken = median_microseconds([functools.partial(run, w, config) for w in weights])
        if taken < best[0]:
            best = taken, config
    return {
        "config": None if best[1] is None else dataclasses.asdict(best[1]),
        "microseconds": round(best[0], 2),
        "library_microseconds": None if math.isinf(library) else round(library, 2),
    }


def median_microseconds(calls: list[Callable[[], Any]], repeats: int = 5) -> float:
    """Time of one call, from replays of a graph that holds all of them, at least eight."""
    calls = calls * -(-8 // len(calls))
    calls[0]()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        graph.capture_begin(capture_error_mode="thread_local")
        for call in calls:
            call()
        graph.capture_end()
        graph.replay()
        times: list[float] = []
        for _ in range(repeats):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) * 1e3 / len(calls))
    return statistics.median(times)


def _compile(
    shapes: list[tuple[Scheme, int, int]],
    rows: Mapping[str, Sequence[int]],
    workspace: LinearWorkspace,
    device: Device,
    where: torch.device,
    dtype: torch.dtype,
) -> None:
    """Compile every candidate, several at a time."""
    with (
        ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as executor,
        triton.AsyncCompileMode(executor),
    ):
        for scheme, num_rows, num_columns in shapes:
            weight = _weights(scheme, num_rows, num_columns, where)[0]
            for m in rows[scheme.name]:
                x = _rows(m, weight, where, dtype, device)
                for sums in (True, False) if num_rows <= _MAX_ADDED else (True,):
                    for config in candidates(m, weight, workspace, device, sums=sums):
                        rest = (config, workspace, device, dtype)
                        product(x, weight, None, *rest, sums=sums, compile_only=True)


def _weights(
    scheme: Scheme, num_rows: int, num_columns: int, where: torch.device
) -> list[PackedWeight]:
    """Random ones, as many as no cache holds."""
    first = scheme.pack(torch.randn(num_rows, num_columns, dtype=torch.bfloat16, device=where))
    count = -(-_ROTATED_BYTES // first.tensors["weight"].nbytes)
    copies = [
        dataclasses.replace(first, tensors={n: t.clone() for n, t in first.tensors.items()})
        for _ in range(count - 1)
    ]
    return [first, *copies]


def _rows(
    num_rows: int, weight: PackedWeight, where: torch.device, dtype: torch.dtype, device: Device
) -> torch.Tensor | ScaledRows:
    x = torch.randn(num_rows, weight.num_columns, dtype=dtype, device=where)
    rounded = rounded_dtype(weight)
    return x if rounded is None else quantize_rows(x, rounded, device)


def compile_candidates(
    shapes: Iterable[tuple[Scheme, int, int]], where: torch.device, dtype: torch.dtype
) -> None:
    """What `choose` will compare. Other work on the device does not matter here."""
    workspace, unique = LinearWorkspace.allocate(where), list(dict.fromkeys(shapes))
    rows = {scheme.name: row_buckets(scheme.name) for scheme, _, _ in unique}
    _compile(unique, rows, workspace, Device.of(where), where, dtype)
