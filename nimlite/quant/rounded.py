"""A rounded weight in no device's layout: what quantizers make, published checkpoints hold, and
schemes pack.

N, C output and input features   G groups along a row
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

Kind = Literal["fp8", "int8", "int4"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RoundedMatrix:
    """W_NC = (values - zeros) * scales, each group of C / G neighbouring input features with its
    own zero and scale."""

    kind: Kind
    values_NC: torch.Tensor
    """fp8: e4m3. int8: int8, -128 … 127. int4: uint8, 0 … 15, one a byte."""
    scales_NG: torch.Tensor
    """fp32. G = 1: one a row."""
    zeros_NG: torch.Tensor | None = None
    """fp32, not always whole (a grid with a free minimum has zero = -minimum / scale). None: 0 for
    fp8 and int8, 8 for int4."""
    order_C: torch.Tensor | None = None
    """int64: column j belongs to input feature order[j], where a quantizer sorted the features
    before it grouped them. None: they are in their own order."""
    input_scale: float | None = None
    """What activations are divided by before they are rounded, where calibration fixed it; None:
    each row by its own largest."""

    @property
    def group_size(self) -> int:
        """Neighbouring columns that share a scale."""
        return self.values_NC.shape[1] // self.scales_NG.shape[1]

    def dequantized(self) -> torch.Tensor:
        """W_NC in fp32, its columns in the input features' own order."""
        groups = self.values_NC.float().reshape(*self.scales_NG.shape, -1)
        zeros_NG1 = self.zeros().unsqueeze(-1)
        scaled = (groups - zeros_NG1) * self.scales_NG.unsqueeze(-1)
        weight_NC: torch.Tensor = scaled.flatten(1)
        if self.order_C is None:
            return weight_NC
        return torch.empty_like(weight_NC).index_copy_(1, self.order_C, weight_NC)

    def with_rows_scaled(self, factors_N: torch.Tensor) -> "RoundedMatrix":
        """Each output feature times a factor above 0: only scales change."""
        return replace(self, scales_NG=self.scales_NG * factors_N.unsqueeze(1))

    def rows(self, begin: int, end: int) -> "RoundedMatrix":
        """The output features begin … end."""
        return replace(
            self,
            values_NC=self.values_NC[begin:end],
            scales_NG=self.scales_NG[begin:end],
            zeros_NG=None if self.zeros_NG is None else self.zeros_NG[begin:end],
        )

    def reordered(self, rows_N: torch.Tensor) -> "RoundedMatrix":
        """The output features `rows_N` (int64), in this order."""
        rows_N = rows_N.to(self.values_NC.device)
        return replace(
            self,
            values_NC=self.values_NC[rows_N],
            scales_NG=self.scales_NG[rows_N],
            zeros_NG=None if self.zeros_NG is None else self.zeros_NG[rows_N],
        )

    def columns(self, begin: int, end: int) -> "RoundedMatrix":
        """The input features begin … end. They must be whole groups in their own order."""
        assert self.order_C is None, "sorted input features can't be split"
        size = self.group_size
        if self.scales_NG.shape[1] == 1:
            return replace(self, values_NC=self.values_NC[:, begin:end])
        assert begin % size == 0 and end % size == 0, f"{begin}:{end} cuts a group of {size}"
        groups = slice(begin // size, end // size)
        return replace(
            self,
            values_NC=self.values_NC[:, begin:end],
            scales_NG=self.scales_NG[:, groups],
            zeros_NG=None if self.zeros_NG is None else self.zeros_NG[:, groups],
        )

    def to(self, device: torch.device) -> "RoundedMatrix":
        """The same on `device`."""
        return replace(
            self,
            values_NC=self.values_NC.to(device),
            scales_NG=self.scales_NG.to(device),
            zeros_NG=None if self.zeros_NG is None else self.zeros_NG.to(device),
            order_C=None if self.order_C is None else self.order_C.to(device),
        )

    def zeros(self) -> torch.Tensor:
        if self.zeros_NG is not None:
            return self.zeros_NG
        return torch.full_like(self.scales_NG, 8.0 if self.kind == "int4" else 0.0)


def can_be_stacked(parts: Sequence[RoundedMatrix]) -> bool:
    """Whether `stacked` can hold them exactly: the same kind, groups, order and input scale."""
    first = parts[0]
    return all(
        part.kind == first.kind
        and part.group_size == first.group_size
        and part.input_scale == first.input_scale
        and _same(part.order_C, first.order_C)
        for part in parts[1:]
    )


def stacked(parts: Sequence[RoundedMatrix]) -> RoundedMatrix:
    """The output features of all parts, one below the other: what fusing projections does."""
    assert can_be_stacked(parts), "parts of different formats"
    has_zeros = any(part.zeros_NG is not None for part in parts)
    return replace(
        parts[0],
        values_NC=torch.cat([part.values_NC for part in parts]),
        scales_NG=torch.cat([part.scales_NG for part in parts]),
        zeros_NG=torch.cat([part.zeros() for part in parts]) if has_zeros else None,
    )


def _same(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return torch.equal(a, b)
