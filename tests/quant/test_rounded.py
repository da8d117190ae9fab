"""Rounded weights in no device's layout."""

from typing import Any

import pytest
import torch

from nimlite.quant.rounded import RoundedMatrix, can_be_stacked, stacked


def _int4(num_rows: int = 6, num_columns: int = 64, group: int = 16, **rest: Any) -> RoundedMatrix:
    groups = num_columns // group
    return RoundedMatrix(
        kind="int4",
        values_NC=torch.randint(0, 16, (num_rows, num_columns), dtype=torch.uint8),
        scales_NG=torch.rand(num_rows, groups) + 0.1,
        **rest,
    )


def test_a_group_shares_its_zero_and_its_scale() -> None:
    matrix = RoundedMatrix(
        kind="int4",
        values_NC=torch.tensor([[0, 15, 8, 9]], dtype=torch.uint8),
        scales_NG=torch.tensor([[0.5, 2.0]]),
        zeros_NG=torch.tensor([[8.0, 7.5]]),
    )
    assert matrix.group_size == 2
    assert matrix.dequantized().tolist() == [[-4.0, 3.5, 1.0, 3.0]]


def test_int4_without_zeros_is_centred_on_eight() -> None:
    matrix = _int4()
    explicit = (matrix.values_NC.float() - 8) * matrix.scales_NG.repeat_interleave(16, dim=1)
    assert torch.equal(matrix.dequantized(), explicit)


def test_sorted_columns_go_back_to_their_input_features() -> None:
    order_C = torch.randperm(64)
    matrix = _int4(order_C=order_C)
    plain = RoundedMatrix(
        kind="int4", values_NC=matrix.values_NC, scales_NG=matrix.scales_NG
    ).dequantized()
    x_TC = torch.randn(3, 64)
    torch.testing.assert_close(x_TC @ matrix.dequantized().T, x_TC[:, order_C] @ plain.T)


def test_rows_and_columns_are_those_of_the_whole() -> None:
    matrix = _int4(zeros_NG=torch.rand(6, 4) * 15)
    whole = matrix.dequantized()
    assert torch.equal(matrix.rows(1, 4).dequantized(), whole[1:4])
    assert torch.equal(matrix.columns(16, 48).dequantized(), whole[:, 16:48])


def test_a_scale_for_the_row_serves_any_columns() -> None:
    matrix = RoundedMatrix(
        kind="int8",
        values_NC=torch.randint(-128, 128, (4, 10), dtype=torch.int8),
        scales_NG=torch.rand(4, 1),
    )
    assert torch.equal(matrix.columns(3, 7).dequantized(), matrix.dequantized()[:, 3:7])


def test_parts_are_stacked_whether_they_have_zeros_or_not() -> None:
    parts = [_int4(4), _int4(2, zeros_NG=torch.rand(2, 4) * 15)]
    expected = torch.cat([part.dequantized() for part in parts])
    assert torch.equal(stacked(parts).dequantized(), expected)


@pytest.mark.parametrize(
    "other", [_int4(group=32), _int4(order_C=torch.randperm(64)), _int4(input_scale=0.5)]
)
def test_other_groups_orders_or_input_scales_are_not_stacked(other: RoundedMatrix) -> None:
    assert not can_be_stacked([_int4(), other])


def test_equal_orders_are_stacked() -> None:
    order_C = torch.randperm(64)
    parts = [_int4(order_C=order_C), _int4(order_C=order_C.clone())]
    assert can_be_stacked(parts)
