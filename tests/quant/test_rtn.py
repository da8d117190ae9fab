"""Rounding to nearest."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_samples import weight

from nimlite.quant.grid import Grid, fitted_int4_grid, int4_grid
from nimlite.quant.rtn import group_size_for, nearest_int4, nearest_int8

SETTINGS = settings(max_examples=30, deadline=None)


@SETTINGS
@given(
    num_rows=st.integers(1, 5),
    num_groups=st.integers(1, 4),
    group_size=st.integers(1, 40),
    offset=st.floats(-2, 2),
    size=st.sampled_from([1e-30, 1e-3, 1.0, 1e4]),
    symmetric=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_no_weight_is_further_than_its_groups_step(
    num_rows: int,
    num_groups: int,
    group_size: int,
    offset: float,
    size: float,
    symmetric: bool,
    seed: int,
) -> None:
    weight_NC = (weight(num_rows, num_groups * group_size, seed) * 50 + offset) * size
    rounded = nearest_int4(weight_NC, group_size=group_size, symmetric=symmetric)
    assert rounded.group_size == group_size
    assert int(rounded.values_NC.max()) <= 15
    error_NC = (rounded.dequantized() - weight_NC).abs()
    # Half a step, and another half where the zero's rounding moved the grid off the outermost.
    step_NC = rounded.scales_NG.repeat_interleave(group_size, dim=1)
    assert bool((error_NC <= 1.001 * step_NC).all())


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("constant", [0.0, 0.7, -3.0])
def test_a_constant_group_is_kept(constant: float, symmetric: bool) -> None:
    weight_NC = torch.full((2, 8), constant)
    rounded = nearest_int4(weight_NC, group_size=4, symmetric=symmetric)
    torch.testing.assert_close(rounded.dequantized(), weight_NC)


def test_zero_stays_zero() -> None:
    weight_NC = weight(4, 64) + 0.1
    weight_NC[:, ::3] = 0
    for symmetric in (False, True):
        rounded = nearest_int4(weight_NC, group_size=16, symmetric=symmetric).dequantized()
        assert int(rounded[:, ::3].count_nonzero()) == 0


def test_a_symmetric_grid_keeps_no_zeros() -> None:
    assert nearest_int4(weight(2, 8), group_size=8, symmetric=True).zeros_NG is None


def test_a_shrunk_grid_clips_the_outermost() -> None:
    weight_NC = torch.tensor([[-1.0, 0.1, 0.5, 1.0]])
    grid = int4_grid(weight_NC, group_size=4, symmetric=True, shrink_NG=0.5)
    expected = torch.tensor([[-8.0, 1.0, 7.0, 7.0]]) * 0.5 / 7
    torch.testing.assert_close(grid.nearest(weight_NC).dequantized(), expected)


def test_a_fitted_grid_is_nearer_where_it_matters() -> None:
    weight_NC, importance_C = weight(32, 128), torch.rand(128) ** 4

    def error(grid: Grid) -> float:
        difference_NC = grid.nearest(weight_NC).dequantized() - weight_NC
        return float((difference_NC.square() * importance_C).sum())

    fitted = fitted_int4_grid(weight_NC, importance_C, group_size=32)
    assert error(fitted) < 0.9 * error(int4_grid(weight_NC, group_size=32))
    assert torch.equal(fitted.zeros_NG, fitted.zeros_NG.round().clamp(0, 15))
    on_grid_NC = torch.arange(16.0).repeat(2, 2) - 5
    exact = fitted_int4_grid(on_grid_NC, torch.ones(32), group_size=16).nearest(on_grid_NC)
    assert torch.equal(exact.dequantized(), on_grid_NC)


def test_int8_is_off_by_at_most_half_a_step() -> None:
    weight_NC = weight(6, 50)
    weight_NC[3] = 0
    rounded = nearest_int8(weight_NC)
    error_NC = (rounded.dequantized() - weight_NC).abs()
    assert bool((error_NC <= 0.5001 * rounded.scales_NG).all())
    assert int(rounded.dequantized()[3].count_nonzero()) == 0


@pytest.mark.parametrize(("num_columns", "size"), [(4096, 128), (576, 64), (96, 32), (27, 1)])
def test_a_group_divides_the_columns(num_columns: int, size: int) -> None:
    assert group_size_for(num_columns) == size
