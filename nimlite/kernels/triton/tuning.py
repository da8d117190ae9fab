"""Which kernel serves which product on this GPU: measured once, kept as plain data."""

import dataclasses
import functools
import logging
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import triton
from torch.nn import functional

from nimlite.kernels.triton.device import Device
from nimlite.kernels.triton.fp8 import ScaledRows, quantize_rows
from nimlite.kernels.triton.linear import (
    ROW_BUCKETS,
    LinearConfig,
    LinearWorkspace,
    bucket,
    candidates,
    linear,
)
from nimlite.quant.base import PackedWeight, Scheme

_log = logging.getLogger(__name__)
_ROTATED_BYTES = 256 << 20
"""Of weights that take turns, so that no cache holds the next one."""

Choices = Mapping[str, Mapping[str, Any]]
"""By `choice_key`: config (the fields of a LinearConfig, or None for cuBLAS), microseconds, and
library_microseconds. JSON can hold it."""


def choice_key(weight: PackedWeight, num_rows: int) -> str:
    """Such as "fp8_rows 4096x14336 16": scheme, N x C, bucket of rows."""
    rows = bucket(num_rows)
    return f"{weight.scheme} {weight.num_rows}x{weight.num_columns} {rows}"


def library_linear(
    x: torch.Tensor | ScaledRows,
    weight: PackedWeight,
    bias_N: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """y_TN by cuBLAS."""
    w_NC = weight.tensors["weight"]
    bias_N = None if bias_N is None else bias_N.to(dtype)
    if isinstance(x, torch.Tensor):
        return functional.linear(x, w_NC, bias_N)
    return torch._scaled_mm(
        x.values_TC,
        w_NC.t(),
        scale_a=x.scale_T1,
        scale_b=weight.tensors["scale"].unsqueeze(0),
        bias=bias_N,
        out_dtype=dtype,
        use_fast_accum=True,
    )


def choose(
    shapes: Iterable[tuple[Scheme, int, int]],
    where: torch.device,
    dtype: torch.dtype,
    rows: Iterable[int] = ROW_BUCKETS,
) -> dict[str, dict[str, Any]]:
    """Measure (scheme, N, C) on random weights for each bucket of rows. Other work on the device
    disturbs the choice."""
    device, workspace = Device.of(where), LinearWorkspace.allocate(where)
    shapes, rows = list(dict.fromkeys(shapes)), list(rows)
    started = time.monotonic()
    _compile(shapes, rows, workspace, device, where, dtype)
    compiled = time.monotonic()
    choices = {}
    for scheme, num_rows, num_columns in shapes:
        weights = _weights(scheme, num_rows, num_columns, where)
        for m in rows:
            x = _rows(m, weights[0], where, dtype, device)
            choices[choice_key(weights[0], m)] = _fastest(x, weights, workspace, device, dtype)
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
) -> dict[str, Any]:
    num_rows = len(x.values_TC) if isinstance(x, ScaledRows) else len(x)
    library = median_microseconds(
        [functools.partial(library_linear, x, w, None, dtype) for w in weights]
    )
    best: tuple[float, LinearConfig | None] = (library, None)
    for config in candidates(num_rows, weights[0], workspace, device):
        rest = (None, config, workspace, device, dtype)
        taken = median_microseconds([functools.partial(linear, x, w, *rest) for w in weights])
        if taken < best[0]:
            best = taken, config
    return {
        "config": None if best[1] is None else dataclasses.asdict(best[1]),
        "microseconds": round(best[0], 2),
        "library_microseconds": round(library, 2),
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
    rows: list[int],
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
            for m in rows:
                x = _rows(m, weight, where, dtype, device)
                for config in candidates(m, weight, workspace, device):
                    linear(x, weight, None, config, workspace, device, dtype, compile_only=True)


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
    return quantize_rows(x, device) if weight.scheme == "fp8_rows" else x


def compile_candidates(
    shapes: Iterable[tuple[Scheme, int, int]], where: torch.device, dtype: torch.dtype
) -> None:
    """What `choose` will compare. Other work on the device does not matter here."""
    workspace, unique = LinearWorkspace.allocate(where), list(dict.fromkeys(shapes))
    _compile(unique, list(ROW_BUCKETS), workspace, Device.of(where), where, dtype)
