"""Outliers in activations, moved to weights."""

import torch

from nimlite.quant.rtn import nearest_int8
from nimlite.quant.smoothquant import smoothing_factors


def _error(weight_NC: torch.Tensor, x_TC: torch.Tensor) -> float:
    """Of the product in int8 by rows, relative to the exact one divided by its norm."""
    exact = x_TC @ weight_NC.T
    found = nearest_int8(x_TC).dequantized() @ nearest_int8(weight_NC).dequantized().T
    return float((found - exact).norm() / exact.norm())


def test_outliers_cost_less_when_they_are_smoothed() -> None:
    """Two features of a hundred are 100 times as large: what language models show."""
    generator = torch.Generator().manual_seed(1)
    x_TC = torch.randn(64, 100, generator=generator)
    x_TC[:, [3, 70]] *= 100
    weight_NC = torch.randn(48, 100, generator=generator)
    weight_NC[:, [3, 70]] /= 20
    factors_C = smoothing_factors(weight_NC, x_TC)
    assert (factors_C > 0).all()
    assert factors_C[[3, 70]].min() > 3 * factors_C.median()
    assert _error(weight_NC * factors_C, x_TC / factors_C) < _error(weight_NC, x_TC) / 3


def test_what_can_not_be_improved_is_left() -> None:
    """Each side is on its grid already: any factor would take it off."""
    x_TC, weight_NC = torch.eye(8).mul(127).repeat(2, 1), torch.ones(4, 8)
    assert torch.equal(smoothing_factors(weight_NC, x_TC), torch.ones(8))


def test_a_feature_that_is_never_seen_keeps_its_weight() -> None:
    x_TC = torch.randn(32, 16)
    x_TC[:, 5] = 0
    x_TC[:, 2] *= 1000
    factors_C = smoothing_factors(torch.randn(8, 16), x_TC)
    assert factors_C[5] == 1 and factors_C.isfinite().all()
