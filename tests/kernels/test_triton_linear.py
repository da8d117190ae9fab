from typing import Any

import pytest
import torch
from triton_cases import DEVICE, DTYPE, TOLERANCE, WHERE, random, relative_error

from nimlite.kernels.triton import reference
from nimlite.kernels.triton.linear import LinearConfig, LinearWorkspace, linear, linear_candidates
from nimlite.kernels.triton.product import library_linear
from nimlite.kernels.triton.scaled_rows import ScaledRows, UnsummedRows
from nimlite.kernels.triton.weights import BF16_ROWS, FP8_ROWS, FP16_ROWS, INT8_ROWS

DENSE = BF16_ROWS if torch.bfloat16 == DTYPE else FP16_ROWS


def config(split: int = 1, vector: bool = False, descriptors: bool = False) -> LinearConfig:
    return LinearConfig(
        block_n=32,
        block_c=64,
        split=split,
        num_warps=4,
        num_stages=2,
        vector=vector,
        descriptors=descriptors,
    )


def rounded(x: torch.Tensor, scheme: Any) -> torch.Tensor | ScaledRows:
    """What the scheme's kernel takes."""
    return x if scheme is DENSE else reference.quantize_rows(x, scheme.dtype)


@pytest.mark.parametrize("split", [1, 3])
@pytest.mark.parametrize("scheme", [DENSE, FP8_ROWS, INT8_ROWS])
def test_one_row_without_tensor_cores(scheme: Any, split: int) -> None:
    weight = scheme.pack(random(40, 576, seed=1))
    x = random(1, 576, seed=2)
    workspace = LinearWorkspace.allocate(WHERE)
    rows = rounded(x, scheme)
    one = config(split, vector=True)
    y = linear(rows, weight, None, one, workspace, DEVICE, DTYPE)
    assert relative_error(y, scheme.linear(x, weight)) < TOLERANCE


@pytest.mark.parametrize("descriptors", [False, True])
@pytest.mark.parametrize("rows", [1, 16, 33])
@pytest.mark.parametrize("split", [1, 3])
def test_rows_of_16_bits(rows: int, split: int, descriptors: bool) -> None:
    weight = DENSE.pack(random(72, 576, seed=1))
    x, bias = random(rows, 576, seed=2), random(72, seed=3)
    workspace = LinearWorkspace.allocate(WHERE)
    expected = DENSE.linear(x, weight) + bias.float()
    for _ in range(2):
        one = config(split, descriptors=descriptors)
        y = linear(x, weight, bias, one, workspace, DEVICE, DTYPE)
        assert relative_error(y, expected) < TOLERANCE


@pytest.mark.parametrize("scheme", [FP8_ROWS, INT8_ROWS])
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("split", [1, 2])
def test_rows_of_8_bits(rows: int, split: int, scheme: Any) -> None:
    weight = scheme.pack(random(40, 256, seed=1))
    x = reference.quantize_rows(random(rows, 256, seed=2), scheme.dtype)
    workspace = LinearWorkspace.allocate(WHERE)
    y = linear(x, weight, None, config(split), workspace, DEVICE, DTYPE)
    expected = reference.dequantize(x) @ scheme.unpack(weight).T
    assert relative_error(y, expected) < TOLERANCE


@pytest.mark.parametrize("descriptors", [False, True])
def test_many_rows_of_int8_share_a_weights_tile(descriptors: bool) -> None:
    """More row tiles than go together, the last not full."""
    weight = INT8_ROWS.pack(random(72, 128, seed=1))
    x, bias = random(9 * 128 + 5, 128, seed=2), random(72, seed=3)
    workspace = LinearWorkspace.allocate(WHERE)
    one = config(descriptors=descriptors)
    y = linear(rounded(x, INT8_ROWS), weight, bias, one, workspace, DEVICE, DTYPE)
    assert relative_error(y, INT8_ROWS.linear(x, weight) + bias.float()) < TOLERANCE
    found = linear_candidates(2048, weight, workspace, DEVICE)
    assert found and all(one.split == 1 for one in found)


@pytest.mark.parametrize("kind", [{}, {"descriptors": True}, {"vector": True}])
@pytest.mark.parametrize("scheme", [DENSE, FP8_ROWS, INT8_ROWS])
def test_parts_are_left_to_the_next_kernel(scheme: Any, kind: dict[str, bool]) -> None:
    weight = scheme.pack(random(72, 320, seed=1))
    x = random(1 if "vector" in kind else 5, 320, seed=2)
    rows = rounded(x, scheme)
    workspace = LinearWorkspace.allocate(WHERE)
    one = config(3, **kind)
    y = linear(rows, weight, None, one, workspace, DEVICE, DTYPE, sums=False)
    assert isinstance(y, UnsummedRows) and len(y.parts_PTN) == 3
    assert relative_error(reference.finish(y), scheme.linear(x, weight)) < TOLERANCE


@pytest.mark.parametrize("scheme", [FP8_ROWS, INT8_ROWS])
def test_the_library_leaves_rows_of_8_bits_unscaled(scheme: Any) -> None:
    weight = scheme.pack(random(64, 320, seed=1))
    x, bias = random(20, 320, seed=2), random(64, seed=3)
    workspace = LinearWorkspace.allocate(WHERE)
    expected, rows = scheme.linear(x, weight), reference.quantize_rows(x, scheme.dtype)
    rest = (workspace, DEVICE, torch.bfloat16)
    y = library_linear(rows, weight, None, *rest, sums=False)
    assert isinstance(y, UnsummedRows)
    assert relative_error(reference.finish(y), expected) < 1e-2
    for sums in (True, False):
        summed = library_linear(rows, weight, bias, *rest, sums=sums)
        assert relative_error(summed, expected + bias.float()) < 1e-2


@pytest.mark.parametrize("rows", [1, 3])
def test_columns_that_fill_no_block(rows: int) -> None:
    weight = DENSE.pack(random(48, 200, seed=1))
    x = random(rows, 200, seed=2)
    workspace = LinearWorkspace.allocate(WHERE)
    y = linear(x, weight, None, config(2), workspace, DEVICE, torch.float32)
    assert relative_error(y, DENSE.linear(x, weight)) < TOLERANCE


@pytest.mark.parametrize("scheme", [FP8_ROWS, INT8_ROWS])
def test_a_vector_of_16_bits_with_weights_of_8(scheme: Any) -> None:
    weight, x = scheme.pack(random(48, 320, seed=1)), random(1, 320, seed=2)
    workspace = LinearWorkspace.allocate(WHERE)
    expected = x.float() @ scheme.unpack(weight).T
    for split in (1, 2):
        one, rest = config(split, vector=True), (workspace, DEVICE, torch.float32)
        y = linear(x, weight, None, one, *rest)
        assert relative_error(y, expected) < TOLERANCE
        y = linear(x, weight, None, one, *rest, sums=False)
        y = y if isinstance(y, torch.Tensor) else reference.finish(y)
        assert relative_error(y, expected) < TOLERANCE


def test_rows_of_a_wider_tensor() -> None:
    weight = DENSE.pack(random(48, 128, seed=1))
    x = random(4, 256, seed=2)[:, :128]
    workspace = LinearWorkspace.allocate(WHERE)
    y = linear(x, weight, None, config(), workspace, DEVICE, DTYPE)
    assert relative_error(y, DENSE.linear(x, weight)) < TOLERANCE


@pytest.mark.parametrize("scheme", [DENSE, FP8_ROWS, INT8_ROWS])
def test_schemes_unpack_what_they_packed(scheme: Any) -> None:
    weight = random(24, 64, dtype=torch.float32)
    tolerance = {DENSE: 4e-3, FP8_ROWS: 4e-2, INT8_ROWS: 1e-2}[scheme]
    assert relative_error(scheme.unpack(scheme.pack(weight)), weight) < tolerance


@pytest.mark.parametrize("rows", [1, 8, 64])
def test_candidates_hold_to_the_limits_of_the_device(rows: int) -> None:
    weight = DENSE.pack(random(512, 1024, seed=1))
    workspace = LinearWorkspace.allocate(WHERE)
    found = linear_candidates(rows, weight, workspace, DEVICE)
    assert found
    for one in found:
        assert one.shared_bytes(rows, 2) < DEVICE.shared_memory
        assert one.split == 1 or 2 * one.split * one.block_c <= 1024
