"""Asymmetric calibration against a least-squares solve, and on inputs of rounded layers."""

import torch
from layer_samples import activations, weight

from nimlite.quant import asymmetric
from nimlite.quant.asymmetric import corrected, drift
from nimlite.quant.gptq import hessian


def fitted(x_TC: torch.Tensor, exact_TC: torch.Tensor, weight_NC: torch.Tensor) -> torch.Tensor:
    return corrected(weight_NC, hessian(x_TC), drift(x_TC, exact_TC))


def test_it_is_the_ridge_regression_of_the_exact_output() -> None:
    exact_TC, weight_NC = activations(512, 32), weight(8, 32)
    x_TC = exact_TC + 0.1 * activations(512, 32, seed=2)
    ridge = asymmetric._RIDGE * float(hessian(x_TC).diagonal().median()) / 2
    rows_TC = torch.cat([x_TC, ridge**0.5 * torch.eye(32)])
    target_TN = torch.cat([exact_TC @ weight_NC.T, ridge**0.5 * weight_NC.T])
    expected_NC = torch.linalg.lstsq(rows_TC.double(), target_TN.double()).solution.T
    torch.testing.assert_close(
        fitted(x_TC, exact_TC, weight_NC).double(), expected_NC, rtol=1e-3, atol=1e-5
    )


def test_it_makes_up_for_what_came_before() -> None:
    """A linear before that is rounded coarsely: its error is a function of what it gives."""
    exact_TC = activations(1536, 64)
    before_CC = torch.eye(64) + 0.1 * weight(64, 64, seed=3) / 0.02
    rounded_CC = (before_CC * 4).round() / 4
    x_TC, exact_TC, weight_NC = exact_TC @ rounded_CC, exact_TC @ before_CC, weight(48, 64)
    found_NC = fitted(x_TC[:1024], exact_TC[:1024], weight_NC)
    expected_TN = exact_TC[1024:] @ weight_NC.T
    errors = [float((x_TC[1024:] @ w_NC.T - expected_TN).norm()) for w_NC in (found_NC, weight_NC)]
    assert errors[0] < 0.7 * errors[1]


def test_where_nothing_was_rounded_before_nothing_is_corrected() -> None:
    x_TC, weight_NC = activations(64, 32), weight(8, 32)
    assert torch.equal(fitted(x_TC, x_TC, weight_NC), weight_NC)
    unused_TC = torch.zeros(64, 32)
    assert torch.equal(fitted(unused_TC, unused_TC, weight_NC), weight_NC)
