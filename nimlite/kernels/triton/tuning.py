"""Which kernel serves which product on this GPU: measured once, kept as plain data."""

import dataclasses
import functools
import logging
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import triton

from nimlite.kernels.triton.device import Device
from nimlite.kernels.triton.linear import LinearConfig, LinearWorkspace
from nimlite.kernels.triton.norm import add_rms_norm
from nimlite.kernels.triton.product import (
    candidates,
    is_vector,
    library_serves,
    product,
    row_buckets,
)
from nimlite.kernels.triton.scaled_rows import ScaledRows, quantize_rows, rounded_dtype
from nimlite.quant.base import PackedWeight, Scheme

_log = logging.getLogger(__name__)
_MAX_ADDED = 16384
"""Outputs of a product that may be left unsummed: what `add_rms_norm` holds in registers."""
_ROTATED_BYTES = 256 << 20
"""Of weights that take turns, so that no cache holds the next one."""

Choices = Mapping[str, Mapping[str, Any]]
"""By `choice_key`: config (the fields of a LinearConfig, or None for cuBLAS), microseconds and
library_microseconds; where the sum may be left to the addition that follows, also unsummed: the
configuration for that. JSON can hold it."""


def choice_key(weight: PackedWeight, rows: int) -> str:
    """Such as "fp8_rows 4096x14336 16": scheme, N x C, bucket of rows."""
    return f"{weight.scheme} {weight.num_rows}x{weight.num_columns} {rows}"


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
    compile_products(shapes, kinds, workspace, device, where, dtype)
    compiled = time.monotonic()
    choices: dict[str, dict[str, Any]] = {}
    for scheme, num_rows, num_columns in shapes:
        weights = rotated_weights(scheme, num_rows, num_columns, where)
        for m in kinds[scheme.name]:
            rest = (
                random_rows(m, weights[0], where, dtype, device),
                weights,
                workspace,
                device,
                dtype,
            )
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
    configs = candidates(num_rows, weights[0], workspace, device, sums=sums)
    if rival is not None:
        configs.append(LinearConfig(**rival))
    taken = measure(x, weights, configs, workspace, device, dtype, sums=sums)
    best = min(taken, key=lambda config: taken[config])
    return {
        "config": None if best is None else dataclasses.asdict(best),
        "microseconds": round(taken[best], 2),
        "library_microseconds": round(taken[None], 2) if None in taken else None,
    }


def measure(
    x: torch.Tensor | ScaledRows,
    weights: list[PackedWeight],
    configs: Iterable[LinearConfig],
    workspace: LinearWorkspace,
    device: Device,
    dtype: torch.dtype,
    *,
    sums: bool,
) -> dict[LinearConfig | None, float]:
    """Microseconds of one product with each configuration, and (None) with the library where it has
    one; without `sums` together with the addition that follows. The weights take turns."""
    num_rows = len(x.values_TC) if isinstance(x, ScaledRows) else len(x)
    num_outputs, where = weights[0].num_rows, workspace.one.device
    residual_TN = torch.zeros((num_rows, num_outputs), dtype=torch.float32, device=where)
    norm_N = torch.ones(num_outputs, dtype=torch.float32, device=where)
    wide = widened(x, dtype)

    def run(weight: PackedWeight, config: LinearConfig | None) -> None:
        y = product(
            wide if is_vector(config) else x,
            weight,
            None,
            config,
            workspace,
            device,
            dtype,
            sums=sums,
        )
        if not sums:
            add_rms_norm(y, residual_TN, norm_N, 1e-5, device, dtype=dtype)

    tried = [*([None] if library_serves(weights[0], num_rows) else []), *configs]
    return {
        config: median_microseconds([functools.partial(run, w, config) for w in weights])
        for config in tried
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


def compile_products(
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
            weight = rotated_weights(scheme, num_rows, num_columns, where)[0]
            for m in rows[scheme.name]:
                x = random_rows(m, weight, where, dtype, device)
                for sums in (True, False) if num_rows <= _MAX_ADDED else (True,):
                    for config in candidates(m, weight, workspace, device, sums=sums):
                        rest = (config, workspace, device, dtype)
                        one = widened(x, dtype) if is_vector(config) else x
                        product(one, weight, None, *rest, sums=sums, compile_only=True)


def rotated_weights(
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


def random_rows(
    num_rows: int, weight: PackedWeight, where: torch.device, dtype: torch.dtype, device: Device
) -> torch.Tensor | ScaledRows:
    x = torch.randn(num_rows, weight.num_columns, dtype=dtype, device=where)
    rounded = rounded_dtype(weight)
    return x if rounded is None else quantize_rows(x, rounded, device)


def widened(x: torch.Tensor | ScaledRows, dtype: torch.dtype) -> torch.Tensor:
    """As a product in registers takes it."""
    return x if isinstance(x, torch.Tensor) else (x.values_TC.float() * x.scale_T1).to(dtype)


def compile_candidates(
    shapes: Iterable[tuple[Scheme, int, int]], where: torch.device, dtype: torch.dtype
) -> None:
    """What `choose` will compare. Other work on the device does not matter here."""
    workspace, unique = LinearWorkspace.allocate(where), list(dict.fromkeys(shapes))
    rows = {scheme.name: row_buckets(scheme.name) for scheme, _, _ in unique}
    compile_products(unique, rows, workspace, Device.of(where), where, dtype)
