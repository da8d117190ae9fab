"""Matrix products and embedding rows in C++ against what each scheme defines."""

from dataclasses import replace

import pytest
import torch
from kernel_cases import random, relative_error

from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.quant import SCHEMES, unpack
from nimlite.quant.rounded import RoundedMatrix
from nimlite.quant.rtn import nearest_fp8

ROUNDING = 1e-6


@pytest.mark.parametrize("num_rows", [1, 2, 5, 12, 13, 29])
@pytest.mark.parametrize("name", SCHEMES)
def test_linear_is_the_scheme_s(kernels: CpuKernels, name: str, num_rows: int) -> None:
    weight = SCHEMES[name].pack(random(100, 96))
    x_TC, bias_N = random(num_rows, 96, seed=1), random(100, seed=2)
    expected = SCHEMES[name].linear(x_TC, weight)
    assert relative_error(kernels.linear(x_TC, weight, None), expected) <= ROUNDING
    assert relative_error(kernels.linear(x_TC, weight, bias_N), expected + bias_N) <= ROUNDING


@pytest.mark.parametrize("num_columns", [96, 37])
def test_fp8_inputs_are_rounded_by_the_scale_that_was_calibrated(
    kernels: CpuKernels, num_columns: int
) -> None:
    x_TC = random(5, num_columns, seed=1)
    matrix = replace(nearest_fp8(random(40, num_columns)), input_scale=0.9 / 448)
    weight = SCHEMES["fp8"].pack_rounded(matrix)
    expected = SCHEMES["fp8"].linear(x_TC, weight)
    assert relative_error(kernels.linear(x_TC, weight, None), expected) <= ROUNDING


def test_every_fp8_number_is_read_and_rounded_to(kernels: CpuKernels) -> None:
    """The products of all of them with 1, and with themselves alone."""
    numbers_V = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    numbers_V = numbers_V[numbers_V.float().isfinite()]
    matrix = RoundedMatrix(
        kind="fp8", values_NC=numbers_V[:, None], scales_NG=torch.ones(254, 1), input_scale=1.0
    )
    weight = SCHEMES["fp8"].pack_rounded(matrix)
    assert torch.equal(kernels.linear(torch.ones(1, 1), weight, None)[0], numbers_V.float())
    between_T1 = torch.linspace(-500, 500, 4001)[:, None] * torch.tensor([[1.0, 1e-3, 1e-5]])
    between_T1 = between_T1.reshape(-1, 1)
    one = replace(nearest_fp8(torch.full((1, 1), 448.0)), input_scale=1.0)
    expected = between_T1.clamp(-448, 448).to(torch.float8_e4m3fn).float() * 448
    assert torch.equal(kernels.linear(between_T1, SCHEMES["fp8"].pack_rounded(one), None), expected)


@pytest.mark.parametrize("name", ["fp32", "bf16", "int8_wo", "fp8"])
def test_dense_weights_take_any_number_of_columns(kernels: CpuKernels, name: str) -> None:
    weight = SCHEMES[name].pack(random(7, 37))
    x_TC = random(3, 37, seed=1)
    expected = SCHEMES[name].linear(x_TC, weight)
    assert relative_error(kernels.linear(x_TC, weight, None), expected) <= ROUNDING


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_long_sums_are_no_less_exact_than_torch_s(kernels: CpuKernels, name: str) -> None:
    weight, x_TC = SCHEMES[name].pack(random(64, 1536)), random(12, 1536, seed=1)
    exact = x_TC.double() @ unpack(weight).double().T
    in_torch = (SCHEMES[name].linear(x_TC, weight) - exact).norm()
    assert (kernels.linear(x_TC, weight, None) - exact).norm() <= in_torch


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_rows_of_zeros_and_large_values_are_kept(kernels: CpuKernels, name: str) -> None:
    weight = SCHEMES[name].pack(random(32, 64))
    x_TC = random(3, 64, seed=1)
    x_TC[0] = 0
    x_TC[1] *= 1e30
    expected = SCHEMES[name].linear(x_TC, weight)
    y_TN = kernels.linear(x_TC, weight, None)
    assert torch.equal(y_TN[0], torch.zeros(32))
    assert relative_error(y_TN[1] / 1e30, expected[1] / 1e30) <= ROUNDING


@pytest.mark.parametrize("name", SCHEMES)
def test_a_row_depends_on_no_other_row(kernels: CpuKernels, name: str) -> None:
    weight = SCHEMES[name].pack(random(48, 128))
    x_TC = random(40, 128, seed=1)
    alone = [kernels.linear(row, weight, None) for row in x_TC.split(1)]
    for num_rows in range(1, 41):
        y_TN = kernels.linear(x_TC[:num_rows], weight, None)
        assert torch.equal(y_TN, torch.cat(alone[:num_rows]))


@pytest.mark.parametrize("name", SCHEMES)
def test_threads_do_not_change_the_result(kernels: CpuKernels, name: str) -> None:
    weight = SCHEMES[name].pack(random(80, 96))
    x_TC = random(26, 96, seed=1)
    expected = kernels.linear(x_TC, weight, None)
    assert torch.equal(kernels.with_threads(3).linear(x_TC, weight, None), expected)


@pytest.mark.parametrize("name", SCHEMES)
def test_embed_gathers_the_rows_that_unpack_gives(kernels: CpuKernels, name: str) -> None:
    weight = SCHEMES[name].pack(random(50, 96))
    ids = torch.tensor([0, 49, 17, 17, 16], dtype=torch.int32)
    assert torch.equal(kernels.embed(weight, ids), unpack(weight)[ids])
