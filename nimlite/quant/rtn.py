"""Round to nearest: the grids of 4 and 8 bits, and the baseline that calibrated methods must beat.

N, C output and input features   G groups along a row   S input features in a group
"""

import math
from dataclasses import dataclass

import torch

from nimlite.quant.rounded import RoundedMatrix

GROUP_SIZE = 128
"""Input features that share a scale, where their number allows it."""
_LEVELS = 15
_CENTRE = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Int4Grid:
    """The 16 values that each group can take: (0 … 15 - zeros) * scales."""

    scales_NG: torch.Tensor
    """fp32, above 0."""
    zeros_NG: torch.Tensor
    """fp32, whole, 0 … 15: the value 0 is always on the grid."""
    symmetric: bool

    def nearest(self, weight_NC: torch.Tensor) -> RoundedMatrix:
        """Each weight on the nearest value of its group."""
        groups_NGS = weight_NC.reshape(*self.scales_NG.shape, -1)
        values_NGS = round_int4(
            groups_NGS, self.scales_NG.unsqueeze(-1), self.zeros_NG.unsqueeze(-1)
        )
        return self.matrix(values_NGS.flatten(1))

    def matrix(self, values_NC: torch.Tensor) -> RoundedMatrix:
        """The weight that whole `values_NC` of 0 … 15 stand for."""
        return RoundedMatrix(
            kind="int4",
            values_NC=values_NC.to(torch.uint8),
            scales_NG=self.scales_NG,
            zeros_NG=None if self.symmetric else self.zeros_NG,
        )


def group_size_for(num_columns: int) -> int:
    """The largest power of two, at most 128, that divides `num_columns`."""
    return math.gcd(num_columns, GROUP_SIZE)


def int4_grid(
    weight_NC: torch.Tensor,
    *,
    group_size: int,
    symmetric: bool = False,
    shrink_NG: torch.Tensor | float = 1.0,
) -> Int4Grid:
    """A grid for each group of `group_size` (a divisor of C) neighbouring input features.

    It spans the group's values and 0, times `shrink_NG` (above 0, at most 1), which clips the
    outermost. `symmetric`: 0 is in the middle, so that no zeros need be kept.
    """
    num_columns = weight_NC.shape[1]
    assert num_columns % group_size == 0, f"groups of {group_size} in {num_columns} columns"
    groups_NGS = weight_NC.float().reshape(len(weight_NC), -1, group_size)
    low_NG = groups_NGS.amin(-1).clamp(max=0.0) * shrink_NG
    high_NG = groups_NGS.amax(-1).clamp(min=0.0) * shrink_NG
    if symmetric:
        scales_NG = _positive(torch.maximum(-low_NG, high_NG) / (_LEVELS - _CENTRE))
        zeros_NG = torch.full_like(scales_NG, _CENTRE)
    else:
        scales_NG = _positive((high_NG - low_NG) / _LEVELS)
        zeros_NG = (-low_NG / scales_NG).round().clamp(0, _LEVELS)
    return Int4Grid(scales_NG=scales_NG, zeros_NG=zeros_NG, symmetric=symmetric)


def round_int4(weight: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor) -> torch.Tensor:
    """The values 0 … 15, in fp32, nearest to weights; shapes broadcast."""
    return (weight / scales + zeros).round().clamp(0, _LEVELS)


def nearest_int4(
    weight_NC: torch.Tensor, *, group_size: int, symmetric: bool = False
) -> RoundedMatrix:
    """Each weight on the nearest of its group's 16 values."""
    return int4_grid(weight_NC, group_size=group_size, symmetric=symmetric).nearest(
        weight_NC.float()
    )


def nearest_int8(weight_NC: torch.Tensor) -> RoundedMatrix:
    """Each weight on the nearest of 255 values, -127 … 127 times its row's scale."""
    weight_NC = weight_NC.float()
    scales_N1 = _positive(weight_NC.abs().amax(1, keepdim=True) / 127)
    values_NC = (weight_NC / scales_N1).round().clamp(-127, 127).to(torch.int8)
    return RoundedMatrix(kind="int8", values_NC=values_NC, scales_NG=scales_N1)


def _positive(scales: torch.Tensor) -> torch.Tensor:
    """1 where all weights are 0 (or too small for a normal scale), which any scale holds."""
    return torch.where(scales >= torch.finfo(torch.float32).tiny, scales, 1.0)
