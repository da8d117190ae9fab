"""AWQ: input features that matter are scaled up before rounding, so that their weights lose less.

Lin, Tang, Tang, Yang, Chen, Wang, Xiao, Dang, Gan, Han: "AWQ: Activation-aware Weight Quantization
for LLM Compression and Acceleration", https://arxiv.org/abs/2306.00978, section 3.

N, C output and input features   G groups along a row   S input features in a group   T tokens
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nimlite.quant.grid import int4_grid
from nimlite.quant.rounded import RoundedMatrix

_NUM_STEPS = 20
_MAX_CLIPPED = 0.5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScaledWeights:
    """Weights that share an input x: y = (x / scales_C) @ matrix.dequantized().T."""

    scales_C: torch.Tensor
    """fp32, above 0: what makes x divides it by these (a norm's weight, the rows of a linear)."""
    alpha: float
    """The exponent found: 0 scales nothing."""
    matrices: tuple[RoundedMatrix, ...]
    """In the order of the weights."""


def awq(
    weights_NC: Sequence[torch.Tensor],
    x_TC: torch.Tensor,
    mean_C: torch.Tensor,
    *,
    group_size: int,
    symmetric: bool = False,
    clip: bool = True,
) -> ScaledWeights:
    """`weights_NC`, which share the input `x_TC` (a sample of it), in 4 bits.

    `mean_C`: the mean of |x|, of as many tokens as there are. The scales are a power of it, so they
    are equal where it is: features that one weight produces together (a value head that several
    query heads read) need an equal mean. `clip`: search for each group how far to clip it. Neither
    step is taken where it does not bring the sample's output nearer.
    """
    weights_NC = [weight_NC.float() for weight_NC in weights_NC]
    gram_CC = _gram(x_TC)
    best_error, alpha, scales_C = float("inf"), 0.0, torch.ones_like(mean_C)
    for step in range(_NUM_STEPS):
        tried_C = _scales(mean_C, step / _NUM_STEPS)
        error = 0.0
        for weight_NC in weights_NC:
            grid = int4_grid(weight_NC * tried_C, group_size=group_size, symmetric=symmetric)
            rounded_NC = grid.nearest(weight_NC * tried_C).dequantized() / tried_C
            error += float(_squared_error(rounded_NC - weight_NC, gram_CC).sum())
        if error < best_error:
            best_error, alpha, scales_C = error, step / _NUM_STEPS, tried_C
    scaled_gram_CC = gram_CC / torch.outer(scales_C, scales_C)
    matrices = []
    for weight_NC in weights_NC:
        scaled_NC = weight_NC * scales_C
        shrink_NG = _clipping(scaled_NC, scaled_gram_CC, group_size, symmetric) if clip else 1.0
        grid = int4_grid(scaled_NC, group_size=group_size, symmetric=symmetric, shrink_NG=shrink_NG)
        matrices.append(grid.nearest(scaled_NC))
    return ScaledWeights(scales_C=scales_C, alpha=alpha, matrices=tuple(matrices))


def _gram(x_TC: torch.Tensor) -> torch.Tensor:
    """X^T X: all that the output's squared error needs to know of the sample."""
    x_TC = x_TC.float()
    return x_TC.T @ x_TC


def _scales(mean_C: torch.Tensor, alpha: float) -> torch.Tensor:
    """mean ** alpha, about 1; features that were never used count as little used."""
    powers_C = mean_C.float().clamp(min=1e-4 * float(mean_C.max()) or 1.0).pow(alpha)
    return powers_C / (powers_C.max() * powers_C.min()).sqrt()


def _squared_error(difference_NC: torch.Tensor, gram_CC: torch.Tensor) -> torch.Tensor:
    """Of each output feature over the sample: ||X d||^2 = d^T X^T X d."""
    errors_N: torch.Tensor = ((difference_NC @ gram_CC) * difference_NC).sum(1)
    return errors_N


def _clipping(
    weight_NC: torch.Tensor, gram_CC: torch.Tensor, group_size: int, symmetric: bool
) -> torch.Tensor:
    """How far to shrink each group's range, [N, G], so that what it adds to the output is nearest;
    1 for a row that this does not bring nearer as a whole."""
    num_groups = weight_NC.shape[1] // group_size
    blocks = gram_CC.reshape(num_groups, group_size, num_groups, group_size)
    gram_GSS = torch.stack([blocks[g, :, g] for g in range(num_groups)])

    def difference(shrink_NG: torch.Tensor | float) -> torch.Tensor:
        grid = int4_grid(weight_NC, group_size=group_size, symmetric=symmetric, shrink_NG=shrink_NG)
        return grid.nearest(weight_NC).dequantized() - weight_NC

    def group_errors(difference_NC: torch.Tensor) -> torch.Tensor:
        groups_GNS = difference_NC.reshape(-1, num_groups, group_size).transpose(0, 1)
        errors_NG: torch.Tensor = ((groups_GNS @ gram_GSS) * groups_GNS).sum(-1).T
        return errors_NG

    whole_NC = difference(1.0)
    best_NG = group_errors(whole_NC)
    shrink_NG = torch.ones_like(best_NG)
    for step in range(1, _NUM_STEPS):
        tried = 1 - _MAX_CLIPPED * step / _NUM_STEPS
        errors_NG = group_errors(difference(tried))
        shrink_NG = torch.where(errors_NG < best_NG, tried, shrink_NG)
        best_NG = torch.minimum(errors_NG, best_NG)
    clipped_N = _squared_error(difference(shrink_NG), gram_CC)
    is_nearer_N = clipped_N < _squared_error(whole_NC, gram_CC)
    return torch.where(is_nearer_N.unsqueeze(1), shrink_NG, 1.0)
