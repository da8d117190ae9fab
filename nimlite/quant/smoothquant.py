"""SmoothQuant (Xiao et al., 2023, arXiv:2211.10438): outliers move from activations to weights.

A norm's output is divided by a factor a feature, and the columns of the weight behind it are
multiplied by the same: the product stays, but both of its sides round well to int8. The factors are

    s = max|x|^alpha / max|w|^(1 - alpha)

and alpha, the migration strength, is searched for each product: that of the least error.

T calibration tokens   N, C output and input features
"""

import torch

from nimlite.quant.rtn import nearest_int8

_SAMPLE = 512
"""Tokens that errors are measured on; the largest of a feature is that of all."""
STRENGTHS = tuple(i / 10 for i in range(10))
"""The migration strengths that are tried; beside them, no smoothing at all."""


def smoothing_factors(weight_NC: torch.Tensor, x_TC: torch.Tensor) -> torch.Tensor:
    """What each column of an fp32 weight is to be multiplied by, and its input divided by: s_C.

    The error is that of x @ weight.T with weights in int8 by their rows and activations in int8 by
    their tokens. All ones where no strength makes it smaller.
    """
    largest_x_C = x_TC.abs().amax(dim=0)
    x_TC = x_TC[:: -(-len(x_TC) // _SAMPLE)]
    expected_TN = x_TC @ weight_NC.T
    largest_w_C = weight_NC.abs().amax(dim=0)
    best_C = torch.ones_like(largest_x_C)
    least = _error(weight_NC, x_TC, expected_TN)
    for strength in STRENGTHS:
        factors_C = _factors(largest_x_C, largest_w_C, strength)
        error = _error(weight_NC * factors_C, x_TC / factors_C, expected_TN)
        if error < least:
            best_C, least = factors_C, error
    return best_C


def _factors(largest_x_C: torch.Tensor, largest_w_C: torch.Tensor, strength: float) -> torch.Tensor:
    """About 1 in the geometric mean, so that neither side leaves its floats' range; 1 where a
    feature was never seen."""
    is_seen_C = (largest_x_C > 0) & (largest_w_C > 0)
    logs_C = strength * largest_x_C.log() - (1 - strength) * largest_w_C.log()
    mean = logs_C[is_seen_C].mean()
    return torch.where(is_seen_C, (logs_C - mean).clamp(-10, 10).exp(), 1.0)


def _error(weight_NC: torch.Tensor, x_TC: torch.Tensor, expected_TN: torch.Tensor) -> float:
    """Squared, of the product with both sides rounded."""
    rounded_x_TC = nearest_int8(x_TC).dequantized()
    y_TN = rounded_x_TC @ nearest_int8(weight_NC).dequantized().T
    return float((y_TN - expected_TN).square().sum())
