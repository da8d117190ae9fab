"""GPTQ against rounding to nearest, and against the solve that it makes cheap."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_samples import activations, output_error, weight

from nimlite.quant.gptq import LARGEST, gptq, hessian
from nimlite.quant.grid import Grid, fp8_grid, int4_grid, int8_grid
from nimlite.quant.rtn import nearest_int4


@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("num_columns", "group_size"), [(256, 128), (288, 32)])
def test_the_output_is_nearer_than_rounded_to_nearest(
    num_columns: int, group_size: int, symmetric: bool, act_order: bool
) -> None:
    x_TC, weight_NC = activations(1024, num_columns), weight(48, num_columns)
    kept_NC = weight_NC.clone()
    grid = int4_grid(weight_NC, group_size=group_size, symmetric=symmetric)
    rounded = gptq(weight_NC, hessian(x_TC), grid, act_order=act_order)
    nearest = nearest_int4(weight_NC, group_size=group_size, symmetric=symmetric)
    assert rounded.order_C is None
    assert rounded.group_size == group_size
    assert torch.equal(rounded.scales_NG, nearest.scales_NG)
    assert torch.equal(weight_NC, kept_NC)
    unseen_TC = activations(1024 + 512, num_columns)[1024:]
    for sample_TC in (x_TC, unseen_TC):
        found = output_error(sample_TC, weight_NC, rounded)
        assert found < 0.8 * output_error(sample_TC, weight_NC, nearest)


def test_a_token_hundreds_of_times_as_large_does_not_decide_alone() -> None:
    x_TC = activations(64, 32)
    x_TC = x_TC / x_TC.norm(dim=1, keepdim=True)
    found, cut = (hessian(torch.cat([x_TC, size * x_TC[:1]])) for size in (1e4, LARGEST))
    torch.testing.assert_close(found, cut)


@pytest.mark.parametrize("make", [int8_grid, fp8_grid])
def test_eight_bits_gain_too(make: Callable[[torch.Tensor], Grid]) -> None:
    x_TC, weight_NC = activations(1024, 256), weight(48, 256)
    grid = make(weight_NC)
    rounded, nearest = gptq(weight_NC, hessian(x_TC), grid), grid.nearest(weight_NC)
    assert rounded.kind == grid.kind and torch.equal(rounded.scales_NG, nearest.scales_NG)
    unseen_TC = activations(1024 + 512, 256)[1024:]
    found = output_error(unseen_TC, weight_NC, rounded)
    assert found < 0.8 * output_error(unseen_TC, weight_NC, nearest)


def test_the_most_used_features_first_is_nearer() -> None:
    x_TC, weight_NC = activations(1024, 256), weight(48, 256)
    grid = int4_grid(weight_NC, group_size=64)
    error = {
        act_order: output_error(
            x_TC, weight_NC, gptq(weight_NC, hessian(x_TC), grid, act_order=act_order)
        )
        for act_order in (True, False)
    }
    assert error[True] < error[False]


def test_it_is_the_optimal_update_of_each_feature() -> None:
    """The paper's equation 2 and 3, inverting what is left of the Hessian for every feature."""
    x_TC, weight_NC = activations(512, 160), weight(16, 160)
    hessian_CC = hessian(x_TC)
    grid = int4_grid(weight_NC, group_size=32)
    dampened_CC = (hessian_CC + 0.01 * hessian_CC.diagonal().median() * torch.eye(160)).double()
    left_NC, values_NC = weight_NC.double(), torch.empty_like(weight_NC)
    for i in range(160):
        inverse_RR = torch.linalg.inv(dampened_CC[i:, i:])
        scales_N, zeros_N = (t[:, i // 32].double() for t in (grid.scales_NG, grid.zeros_NG))
        q_N = grid.snap(left_NC[:, i] / scales_N + zeros_N)
        error_N = (left_NC[:, i] - (q_N - zeros_N) * scales_N) / inverse_RR[0, 0]
        left_NC[:, i:] -= torch.outer(error_N, inverse_RR[0])
        values_NC[:, i] = q_N
    expected = output_error(x_TC, weight_NC, grid.matrix(values_NC))
    rounded = gptq(weight_NC, hessian_CC, grid, act_order=False, dampening=0.01)
    assert output_error(x_TC, weight_NC, rounded) == pytest.approx(expected, rel=0.02)


def test_independent_features_are_rounded_to_nearest() -> None:
    weight_NC = weight(8, 64)
    rounded = gptq(weight_NC, torch.diag(torch.rand(64) + 1), int4_grid(weight_NC, group_size=32))
    assert torch.equal(rounded.values_NC, nearest_int4(weight_NC, group_size=32).values_NC)


def test_a_feature_never_seen_is_rounded_to_nearest() -> None:
    x_TC, weight_NC = activations(512, 128), weight(16, 128)
    x_TC[:, [3, 77]] = 0
    rounded = gptq(weight_NC, hessian(x_TC), int4_grid(weight_NC, group_size=32))
    nearest = nearest_int4(weight_NC, group_size=32)
    assert torch.equal(rounded.values_NC[:, [3, 77]], nearest.values_NC[:, [3, 77]])
    assert output_error(x_TC, weight_NC, rounded) < output_error(x_TC, weight_NC, nearest)


def test_nothing_seen_at_all_is_rounding_to_nearest() -> None:
    weight_NC = weight(4, 32)
    rounded = gptq(weight_NC, torch.zeros(32, 32), int4_grid(weight_NC, group_size=32))
    assert torch.equal(rounded.values_NC, nearest_int4(weight_NC, group_size=32).values_NC)


@settings(max_examples=20, deadline=None)
@given(
    num_tokens=st.integers(1, 20),
    dampening=st.sampled_from([0.0, 1e-8, 0.01]),
    size=st.sampled_from([1e-4, 1.0, 1e4]),
    seed=st.integers(0, 1000),
)
def test_fewer_tokens_than_features_still_have_an_answer(
    num_tokens: int, dampening: float, size: float, seed: int
) -> None:
    """A singular Hessian."""
    x_TC, weight_NC = activations(num_tokens, 48, seed) * size, weight(4, 48, seed)
    rounded = gptq(
        weight_NC, hessian(x_TC), int4_grid(weight_NC, group_size=16), dampening=dampening
    )
    assert bool(rounded.dequantized().isfinite().all())
    nearest = nearest_int4(weight_NC, group_size=16)
    # Not always nearer: with so few levels, a late feature may have to be clipped.
    assert output_error(x_TC, weight_NC, rounded) < 2 * output_error(x_TC, weight_NC, nearest)


def test_equal_features_are_one_singular_direction() -> None:
    x_TC, weight_NC = activations(256, 64), weight(8, 64)
    x_TC[:, 1] = x_TC[:, 0]
    rounded = gptq(weight_NC, hessian(x_TC), int4_grid(weight_NC, group_size=64), dampening=0.0)
    assert output_error(x_TC, weight_NC, rounded) < output_error(
        x_TC, weight_NC, nearest_int4(weight_NC, group_size=64)
    )
