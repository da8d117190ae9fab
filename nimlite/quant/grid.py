"""The values that rounded weights can take, and the nearest of them.

N, C output and input features   G groups along a row   S input features in a group
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from nimlite.quant.fp8 import row_scales, to_fp8
from nimlite.quant.rounded import Kind, RoundedMatrix

_LEVELS = 15
_CENTRE = 8
_SHRINKS = tuple(1 - i / 40 for i in range(17))
_SNAPS: Mapping[Kind, Callable[[torch.Tensor], torch.Tensor]] = {
    "int4": lambda scaled: scaled.round().clamp(0, _LEVELS),
    "int8": lambda scaled: scaled.round().clamp(-127, 127),
    "fp8": lambda scaled: to_fp8(scaled).float(),
}
_DTYPES = {"int4": torch.uint8, "int8": torch.int8, "fp8": torch.float8_e4m3fn}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Grid:
    """(values - zeros) * scales of each group, with the values of `kind`."""

    kind: Kind
    scales_NG: torch.Tensor
    """fp32, above 0."""
    zeros_NG: torch.Tensor
    """fp32, whole: the weight 0 is always on the grid."""
    is_symmetric: bool
    """Whether the zeros are those that go without saying."""

    def snap(self, scaled: torch.Tensor) -> torch.Tensor:
        """The values, in fp32, nearest to weights / scales + zeros."""
        return _SNAPS[self.kind](scaled)

    def nearest(self, weight_NC: torch.Tensor) -> RoundedMatrix:
        """Each weight on the nearest value of its group."""
        groups_NGS = weight_NC.reshape(*self.scales_NG.shape, -1)
        scaled_NGS = groups_NGS / self.scales_NG.unsqueeze(-1) + self.zeros_NG.unsqueeze(-1)
        return self.matrix(self.snap(scaled_NGS).flatten(1))

    def matrix(self, values_NC: torch.Tensor) -> RoundedMatrix:
        """The weight that values of the grid stand for."""
        return RoundedMatrix(
            kind=self.kind,
            values_NC=values_NC.to(_DTYPES[self.kind]),
            scales_NG=self.scales_NG,
            zeros_NG=None if self.is_symmetric else self.zeros_NG,
        )


def int4_grid(
    weight_NC: torch.Tensor,
    *,
    group_size: int,
    symmetric: bool = False,
    shrink_NG: torch.Tensor | float = 1.0,
) -> Grid:
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
    return Grid(kind="int4", scales_NG=scales_NG, zeros_NG=zeros_NG, is_symmetric=symmetric)


def fitted_int4_grid(
    weight_NC: torch.Tensor, importance_C: torch.Tensor, *, group_size: int
) -> Grid:
    """The grid on which the nearest values are nearest: of those that span less of each group, with
    zeros beside the nearest whole one, too, the one of the least squared error, that of a feature
    weighted by its importance (the mean square of its inputs)."""
    groups_NGS = weight_NC.float().reshape(len(weight_NC), -1, group_size)
    importance_GS = importance_C.float().reshape(-1, group_size)
    whole = int4_grid(weight_NC, group_size=group_size)
    scales_NG, zeros_NG = whole.scales_NG, whole.zeros_NG
    least_NG = torch.full_like(scales_NG, float("inf"))
    for shrink in _SHRINKS:
        tried = int4_grid(weight_NC, group_size=group_size, shrink_NG=shrink)
        for shift in (0, -1, 1):
            shifted_NG = (tried.zeros_NG + shift).clamp(0, _LEVELS)
            values_NGS = tried.snap(
                groups_NGS / tried.scales_NG.unsqueeze(-1) + shifted_NG.unsqueeze(-1)
            )
            rounded_NGS = (values_NGS - shifted_NG.unsqueeze(-1)) * tried.scales_NG.unsqueeze(-1)
            error_NG = ((rounded_NGS - groups_NGS).square() * importance_GS).sum(-1)
            is_nearer_NG = error_NG < least_NG
            scales_NG = torch.where(is_nearer_NG, tried.scales_NG, scales_NG)
            zeros_NG = torch.where(is_nearer_NG, shifted_NG, zeros_NG)
            least_NG = torch.minimum(error_NG, least_NG)
    return Grid(kind="int4", scales_NG=scales_NG, zeros_NG=zeros_NG, is_symmetric=False)


def int8_grid(weight_NC: torch.Tensor) -> Grid:
    """255 values, -127 … 127 times each row's scale."""
    scales_N1 = _positive(weight_NC.float().abs().amax(1, keepdim=True) / 127)
    return _row_grid("int8", scales_N1)


def fp8_grid(weight_NC: torch.Tensor) -> Grid:
    """The values of e4m3 times each row's scale: its largest / 448."""
    return _row_grid("fp8", row_scales(weight_NC.float()))


def _row_grid(kind: Kind, scales_N1: torch.Tensor) -> Grid:
    zeros_N1 = torch.zeros_like(scales_N1)
    return Grid(kind=kind, scales_NG=scales_N1, zeros_NG=zeros_N1, is_symmetric=True)


def _positive(scales: torch.Tensor) -> torch.Tensor:
    """1 where all weights are 0 (or too small for a normal scale), which any scale holds."""
    return torch.where(scales >= torch.finfo(torch.float32).tiny, scales, 1.0)
