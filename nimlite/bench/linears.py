"""A layer's products alone on one GPU: right, and how near to the bytes that they read.

For few rows a product takes the time that its weight, x and y need at the rate that an H200 reads
at, 4.5 TB/s. Weights take turns, so that no cache holds them, and the calls are replayed from a
graph.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from nimlite.engine.gpu import gpu_scheme
from nimlite.kernels.triton import reference
from nimlite.kernels.triton.device import Device
from nimlite.kernels.triton.linear import LinearConfig, LinearWorkspace
from nimlite.kernels.triton.product import candidates, is_vector, product
from nimlite.kernels.triton.scaled_rows import ScaledRows
from nimlite.kernels.triton.tuning import (
    compile_products,
    measure,
    random_rows,
    rotated_weights,
    widened,
)
from nimlite.kernels.triton.weights import SCHEMES
from nimlite.models.registry import weight_sources
from nimlite.models.spec import ModelSpec
from nimlite.profiles.manifest import Precision
from nimlite.quant.base import PackedWeight, Scheme

PRECISIONS = (
    Precision.BF16,
    Precision.FP8,
    Precision.INT8_SQ,
    Precision.INT8_WO,
    Precision.INT4_AWQ,
)
ROWS = (1, 4, 8, 16, 64)
_READ_BYTES_S = 4.5e12
_DTYPE = torch.bfloat16
_MAX_ERROR = 0.01
"""Of a product against fp32 sums of the same rounded numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedProduct:
    """One product, with every configuration that was tried."""

    name: str
    """Such as gate_up."""
    precision: Precision
    num_rows: int
    num_bytes: int
    """That it must move: weight with its scales, x and y."""
    error: float
    """Relative, of the fastest."""
    microseconds: tuple[tuple[float, LinearConfig | None], ...]
    """The fastest first; None: the library."""

    @property
    def floor(self) -> float:
        """Microseconds that its bytes need."""
        return self.num_bytes / _READ_BYTES_S * 1e6

    def json_line(self) -> str:
        return json.dumps(
            {
                "linear": self.name,
                "q": str(self.precision),
                "rows": self.num_rows,
                "bytes": self.num_bytes,
                "floor_us": round(self.floor, 2),
                "error": round(self.error, 5),
                "us": [
                    [round(taken, 2), None if one is None else dataclasses.asdict(one)]
                    for taken, one in self.microseconds
                ],
            }
        )


def table(timed: Sequence[TimedProduct], variants: int = 1) -> str:
    """Markdown: a row a product, and below it its next configurations; at the end a row for the
    layer: the sum of its products."""
    heading = "| precision | rows | linear | us | GB/s | share of floor | error | by |"
    lines = [heading, "|---|---:|---|---:|---:|---:|---:|---|"]
    for one in timed:
        for taken, config in one.microseconds[:variants]:
            lines.append(
                f"| {one.precision} | {one.num_rows} | {one.name} | {taken:.1f} |"
                f" {one.num_bytes / taken / 1e3:,.0f} | {one.floor / taken:.0%} |"
                f" {one.error:.1e} | {_describe(config)} |"
            )
    for precision, num_rows in dict.fromkeys((one.precision, one.num_rows) for one in timed):
        layer = [one for one in timed if (one.precision, one.num_rows) == (precision, num_rows)]
        taken = sum(one.microseconds[0][0] for one in layer)
        num_bytes, floor = sum(one.num_bytes for one in layer), sum(one.floor for one in layer)
        lines.append(
            f"| {precision} | {num_rows} | all | {taken:.1f} | {num_bytes / taken / 1e3:,.0f} |"
            f" {floor / taken:.0%} | | |"
        )
    return "\n".join(lines)


def _describe(config: LinearConfig | None) -> str:
    if config is None:
        return "library"
    kind = "vector" if config.vector else "blocks" if config.descriptors else ""
    return (
        f"{config.block_n}x{config.block_c} / {config.split}, {config.num_warps} warps,"
        f" {config.num_stages} stages {kind}".rstrip()
    )


def run_linears(
    spec: ModelSpec,
    precisions: Sequence[Precision],
    rows: Sequence[int],
    say: Callable[[str], None],
) -> Iterator[TimedProduct]:
    """Every matrix of a layer in the shape of `spec`; each result is also said as a JSON line.

    Asserts that the fastest computes what plain torch does.
    """
    where = torch.device("cuda")
    device, workspace = Device.of(where), LinearWorkspace.allocate(where)
    for precision in precisions:
        matrices = list(_matrices(spec, precision))
        shapes = [(scheme, n, c) for _, scheme, n, c in matrices]
        counts = {scheme.name: tuple(rows) for scheme, _, _ in shapes}
        compile_products(shapes, counts, workspace, device, where, _DTYPE)
        for name, scheme, n, c in matrices:
            weights = rotated_weights(scheme, n, c, where)
            for num_rows in rows:
                x = random_rows(num_rows, weights[0], where, _DTYPE, device)
                rest = (workspace, device, _DTYPE)
                configs = candidates(num_rows, weights[0], workspace, device)
                taken = measure(x, weights, configs, *rest, sums=True)
                ordered = sorted(taken, key=lambda config: taken[config])
                rows_of_best = widened(x, _DTYPE) if is_vector(ordered[0]) else x
                y = product(rows_of_best, weights[0], None, ordered[0], *rest, sums=True)
                assert isinstance(y, torch.Tensor)
                one = TimedProduct(
                    name=name,
                    precision=precision,
                    num_rows=num_rows,
                    num_bytes=_moved_bytes(weights[0], num_rows),
                    error=_error(y, x, weights[0]),
                    microseconds=tuple((taken[config], config) for config in ordered),
                )
                say(one.json_line())
                assert one.error < _MAX_ERROR, one
                yield one


def _matrices(spec: ModelSpec, precision: Precision) -> Iterator[tuple[str, Scheme, int, int]]:
    for name, source in weight_sources(spec).items():
        if name.startswith("layers.0.") and source.quantize:
            n, c = source.shape
            yield name.removeprefix("layers.0."), gpu_scheme(name, precision, c), n, c


def _moved_bytes(weight: PackedWeight, num_rows: int) -> int:
    tensors = sum(tensor.nbytes for tensor in weight.tensors.values())
    return tensors + num_rows * (weight.num_columns + weight.num_rows) * _DTYPE.itemsize


def _error(y_TN: torch.Tensor, x: torch.Tensor | ScaledRows, weight: PackedWeight) -> float:
    x_TC = x if isinstance(x, torch.Tensor) else reference.dequantize(x)
    expected_TN = x_TC.float() @ SCHEMES[weight.scheme].unpack(weight).T
    return float((y_TN.float() - expected_TN).norm() / expected_TN.norm())
