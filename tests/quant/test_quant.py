"""Weight formats: packing, unpacking and the arithmetic they define."""

from dataclasses import replace

import gguf
import pytest
import torch

from nimlite.quant import GROUP, SCHEMES, TILE, scheme_for, unpack
from nimlite.quant.fp8 import static_input_scale
from nimlite.quant.rounded import RoundedMatrix
from nimlite.quant.rtn import nearest_fp8

WORST_ERROR = {"fp32": 0.0, "bf16": 2**-8, "int8": 0.01, "int4": 0.1}
WORST_ERROR |= {"int8_wo": 0.01, "int4_wo": 0.1, "fp8": 0.04}


def random_weight(num_rows: int, num_columns: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_rows * num_columns)
    return torch.randn(num_rows, num_columns, generator=generator)


@pytest.mark.parametrize("num_rows", [1, 16, 40])
@pytest.mark.parametrize("name", SCHEMES)
def test_unpack_reverses_pack_up_to_the_rounding_of_the_scheme(name: str, num_rows: int) -> None:
    weight_NC = random_weight(num_rows, 96)
    packed = SCHEMES[name].pack(weight_NC)
    assert (packed.scheme, packed.num_rows, packed.num_columns) == (name, num_rows, 96)
    assert packed.tensors["weight"].shape[0] == packed.num_tiles == -(-num_rows // TILE)
    error = (unpack(packed) - weight_NC).norm() / weight_NC.norm()
    assert error <= WORST_ERROR[name]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("int4", gguf.GGMLQuantizationType.Q4_1), ("int8", gguf.GGMLQuantizationType.Q8_0)],
)
def test_weights_on_the_grid_of_a_gguf_file_are_kept_exactly(
    name: str, kind: gguf.GGMLQuantizationType
) -> None:
    weight_NC = random_weight(64, 256) * torch.logspace(-4, 1, 64).unsqueeze(1)
    on_grid = torch.from_numpy(gguf.dequantize(gguf.quantize(weight_NC.numpy(), kind), kind))
    assert torch.equal(unpack(SCHEMES[name].pack(on_grid)), on_grid)


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_constant_groups_are_kept(name: str) -> None:
    weight_NC = torch.zeros(16, 64)
    if name == "int4":
        weight_NC[3] = 0.5
    assert torch.equal(unpack(SCHEMES[name].pack(weight_NC)), weight_NC)


def test_int4_holds_columns_in_the_documented_nibbles() -> None:
    """Row n, column c of the second group: the layout that the kernels read."""
    weight_NC = (torch.arange(16).unsqueeze(1) + torch.arange(64)).remainder(16).float()
    packed = SCHEMES["int4"].pack(weight_NC)
    byte = packed.tensors["weight"][0, 1, 2, 5, 3]
    column = GROUP + 8 * 2 + 3
    assert byte & 15 == weight_NC[5, column]
    assert byte >> 4 == weight_NC[5, column + 4]


@pytest.mark.parametrize("name", SCHEMES)
def test_linear_is_near_the_unpacked_product(name: str) -> None:
    """As near as activations in 8 bits are."""
    packed = SCHEMES[name].pack(random_weight(48, 576))
    x_TC = random_weight(5, 576)
    exact = x_TC @ unpack(packed).T
    error = (SCHEMES[name].linear(x_TC, packed) - exact).norm() / exact.norm()
    assert error <= {"fp8": 0.04, "int8": 0.01, "int4": 0.01}.get(name, 1e-6)


def test_fp8_inputs_are_those_of_the_scale_that_was_calibrated() -> None:
    x_TC = random_weight(5, 64)
    scale = static_input_scale(x_TC)
    matrix = replace(nearest_fp8(random_weight(32, 64)), input_scale=scale)
    packed = SCHEMES["fp8"].pack_rounded(matrix)
    assert packed.input_scale == matrix.input_scale
    assert torch.equal(unpack(packed), matrix.dequantized())
    too_large_TC = x_TC.clone()
    too_large_TC[0, 0] = 4 * x_TC.abs().max()
    cut_TC = too_large_TC.clamp(max=float(x_TC.abs().max()))
    found, expected = (SCHEMES["fp8"].linear(x, packed) for x in (too_large_TC, cut_TC))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("name", "num_columns", "expected"),
    [("int4", 64, "int4"), ("int4", 48, "bf16"), ("int8", 40, "bf16"), ("fp32", 7, "fp32")],
)
def test_columns_that_groups_do_not_divide_fall_back_to_bf16(
    name: str, num_columns: int, expected: str
) -> None:
    assert scheme_for(name, num_columns).name == expected


def int8_matrix(num_columns: int, group: int) -> RoundedMatrix:
    return RoundedMatrix(
        kind="int8",
        values_NC=torch.randint(-128, 128, (20, num_columns), dtype=torch.int8),
        scales_NG=torch.rand(20, num_columns // group).half().float(),
    )


def int4_matrix(
    num_columns: int, group: int, *, has_zeros: bool = False, is_sorted: bool = False
) -> RoundedMatrix:
    num_groups = num_columns // group
    return RoundedMatrix(
        kind="int4",
        values_NC=torch.randint(0, 16, (20, num_columns), dtype=torch.uint8),
        # products with whole zeros are exact in fp16
        scales_NG=torch.randint(1, 64, (20, num_groups)) / 64.0,
        zeros_NG=torch.randint(0, 16, (20, num_groups)).float() if has_zeros else None,
        order_C=torch.randperm(num_columns) if is_sorted else None,
    )


@pytest.mark.parametrize("group", [256, 128, 32])
def test_rounded_weights_are_held_exactly(group: int) -> None:
    """A row's or a group's scale is repeated onto the groups of 32."""
    eight = int8_matrix(256, group)
    packed = SCHEMES["int8"].pack_rounded(eight)
    assert packed.scheme == "int8" and torch.equal(unpack(packed), eight.dequantized())
    for has_zeros in (False, True):
        four = int4_matrix(256, group, has_zeros=has_zeros)
        for name in ("int4", "int4_wo"):
            packed = SCHEMES[name].pack_rounded(four)
            assert packed.scheme == name and torch.equal(unpack(packed), four.dequantized())


@pytest.mark.parametrize(
    "matrix",
    [int4_matrix(128, 64, is_sorted=True), int4_matrix(128, 16), int8_matrix(128, 16)],
    ids=["sorted features", "small groups", "another kind"],
)
def test_what_int4_groups_can_not_hold_is_held_in_int8(matrix: RoundedMatrix) -> None:
    packed = SCHEMES["int4"].pack_rounded(matrix)
    expected = matrix.dequantized()
    assert packed.scheme == "int8"
    assert (unpack(packed) - expected).norm() / expected.norm() <= WORST_ERROR["int8"]


@pytest.mark.parametrize("name", ["fp32", "int8", "int8_wo", "int4_wo"])
def test_any_rounded_weight_has_a_place(name: str) -> None:
    matrix = int4_matrix(128, 64, has_zeros=True, is_sorted=True)
    expected = matrix.dequantized()
    error = (unpack(SCHEMES[name].pack_rounded(matrix)) - expected).norm() / expected.norm()
    assert error <= WORST_ERROR[name]
