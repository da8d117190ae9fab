"""Round to nearest: the baseline that calibrated methods must beat.

N, C output and input features
"""

import math

import torch

from nimlite.quant.grid import fp8_grid, int4_grid, int8_grid
from nimlite.quant.rounded import RoundedMatrix

GROUP_SIZE = 128
"""Input features that share a scale, where their number allows it."""


def group_size_for(num_columns: int) -> int:
    """The largest power of two, at most 128, that divides `num_columns`."""
    return math.gcd(num_columns, GROUP_SIZE)


def nearest_int4(
    weight_NC: torch.Tensor, *, group_size: int, symmetric: bool = False
) -> RoundedMatrix:
    """Each weight on the nearest of its group's 16 values."""
    weight_NC = weight_NC.float()
    return int4_grid(weight_NC, group_size=group_size, symmetric=symmetric).nearest(weight_NC)


def nearest_int8(weight_NC: torch.Tensor) -> RoundedMatrix:
    """Each weight on the nearest of 255 values, -127 … 127 times its row's scale."""
    weight_NC = weight_NC.float()
    return int8_grid(weight_NC).nearest(weight_NC)


def nearest_fp8(weight_NC: torch.Tensor) -> RoundedMatrix:
    """Each weight on the nearest value of e4m3 times its row's scale, the row's largest / 448."""
    weight_NC = weight_NC.float()
    return fp8_grid(weight_NC).nearest(weight_NC)
