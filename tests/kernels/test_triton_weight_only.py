"""W4A16 and W8A16 against plain torch."""

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from triton_cases import DEVICE, DTYPE, TOLERANCE, WHERE, random, relative_error

from nimlite.kernels.triton import reference, weight_only, weights
from nimlite.kernels.triton.dequantize import dequantize
from nimlite.kernels.triton.linear import LinearConfig, LinearWorkspace
from nimlite.kernels.triton.product import (
    bucket,
    candidates,
    library_linear,
    product,
    row_buckets,
)
from nimlite.kernels.triton.scaled_rows import UnsummedRows
from nimlite.kernels.triton.weight_only import columns_of_block, rows_of, weight_only_linear
from nimlite.kernels.triton.weights import FP8_ROWS, INT8_ROWS, W4A16, W8A16
from nimlite.quant.base import PackedWeight
from nimlite.quant.rounded import RoundedMatrix
from nimlite.quant.rtn import nearest_int4

ROWS = (1, 3, 16, 33, 64, 200)
ROOM = LinearWorkspace.allocate(WHERE)
CONFIG: dict[str, int] = {
    "block_n": 32,
    "block_c": 256,
    "split": 1,
    "num_warps": 2,
    "num_stages": 2,
}


def packed(scheme: Any, rows: int, columns: int, group_size: int = 0) -> PackedWeight:
    weight_NC = random(rows, columns, dtype=torch.float32, seed=1)
    if not group_size:
        return scheme.pack(weight_NC)
    if scheme is W4A16:
        return scheme.pack_rounded(nearest_int4(weight_NC, group_size=group_size))
    groups = weight_NC.reshape(rows, -1, group_size)
    scales_NG = groups.abs().amax(-1) / 127
    values_NC = (groups / scales_NG.unsqueeze(-1)).round().to(torch.int8).flatten(1)
    return scheme.pack_rounded(RoundedMatrix(kind="int8", values_NC=values_NC, scales_NG=scales_NG))


def config(weight: PackedWeight, spans: int = 1, split: int = 1) -> LinearConfig:
    columns = spans * columns_of_block(weight.scheme)
    return LinearConfig(block_n=32, block_c=columns, split=split, num_warps=4, num_stages=2)


def error(weight: PackedWeight, rows: int, one: LinearConfig) -> float:
    x, bias = random(rows, weight.num_columns, seed=2), random(weight.num_rows, seed=3)
    workspace = LinearWorkspace.allocate(WHERE)
    y = weight_only_linear(x, weight, bias, one, workspace, DEVICE, DTYPE)
    assert isinstance(y, torch.Tensor)
    scheme = {"w4a16": W4A16, "w8a16": W8A16}[weight.scheme]
    return relative_error(y, scheme.linear(x, weight) + bias.float())


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("scheme", [W4A16, W8A16])
def test_rows(scheme: Any, rows: int) -> None:
    weight = packed(scheme, 72, 512)
    assert error(weight, rows, config(weight)) < TOLERANCE
    if rows <= 64:
        assert error(weight, rows, config(weight, spans=4)) < TOLERANCE
        assert error(weight, rows, config(weight, spans=2, split=2)) < TOLERANCE


@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("scheme", [W4A16, W8A16])
def test_groups_and_odd_shapes(scheme: Any, group_size: int) -> None:
    """Columns that fill no block, outputs that fill no tile."""
    weight = packed(scheme, 45, 3 * group_size, group_size)
    assert weight.scheme == scheme.name and len(weight.tensors["scale"]) == 3
    for one in (config(weight), config(weight, spans=4), config(weight, spans=2, split=2)):
        assert error(weight, 3, one) < TOLERANCE
    # the weights are scaled first
    assert error(weight, 80, config(weight)) < TOLERANCE
    assert relative_error(dequantize(weight, DTYPE, DEVICE), scheme.unpack(weight)) < TOLERANCE


@pytest.mark.parametrize(
    ("scheme", "columns", "group_size"),
    [(W4A16, 512, 0), (W4A16, 384, 128), (W8A16, 1056, 0), (W8A16, 512, 256)],
)
def test_one_row_in_integers(scheme: Any, columns: int, group_size: int) -> None:
    weight = packed(scheme, 21, columns, group_size)
    x = random(1, columns, dtype=torch.bfloat16, seed=2)
    # as activations of real models are
    x[0, 7] = 100.0
    bias = random(21, seed=3)
    expected = scheme.linear(x, weight) + bias.float()
    found = [one for one in candidates(1, weight, ROOM, DEVICE) if one.vector]
    for one in (found[0], found[-1]):
        y = weight_only_linear(x, weight, bias, one, ROOM, DEVICE, torch.float32)
        assert isinstance(y, torch.Tensor)
        assert relative_error(y, expected) < 0.02


def test_chunks_in_several_groups_are_left_to_the_tensor_cores() -> None:
    weight = packed(W4A16, 21, 1056)
    assert not any(one.vector for one in candidates(1, weight, ROOM, DEVICE))


@pytest.mark.parametrize("scheme", [W4A16, W8A16])
def test_parts_are_left_to_the_next_kernel(scheme: Any) -> None:
    weight, x = packed(scheme, 72, 512), random(5, 512, seed=2)
    workspace = LinearWorkspace.allocate(WHERE)
    one = config(weight, split=2)
    y = weight_only_linear(x, weight, None, one, workspace, DEVICE, DTYPE, sums=False)
    assert isinstance(y, UnsummedRows) and len(y.parts_PTN) == 2
    assert relative_error(reference.finish(y), scheme.linear(x, weight)) < TOLERANCE


@pytest.mark.parametrize("scheme", [W4A16, W8A16])
def test_the_library_multiplies_widened_weights(scheme: Any) -> None:
    weight, x = packed(scheme, 40, 160, 32), random(7, 160, seed=2)
    workspace = LinearWorkspace.allocate(WHERE)
    for rest in ({}, {"sums": False}):
        y = library_linear(x, weight, None, workspace, DEVICE, DTYPE, **rest)
        assert relative_error(y, scheme.linear(x, weight)) < TOLERANCE


@pytest.mark.parametrize("rows", [1, 64, 512])
def test_candidates_are_right_and_within_the_limits_of_the_device(rows: int) -> None:
    weight, workspace = packed(W4A16, 512, 2048), LinearWorkspace.allocate(WHERE)
    found = candidates(rows, weight, workspace, DEVICE)
    assert found and all(one.split == 1 or rows <= 128 for one in found)
    x = random(min(rows, 16), 2048, seed=2)
    y = product(x, weight, None, found[0], workspace, DEVICE, DTYPE, sums=True)
    assert relative_error(y, W4A16.linear(x, weight)) < TOLERANCE


@pytest.mark.parametrize("scheme", [W4A16, W8A16])
def test_every_bucket_has_a_candidate_on_cards_with_little_shared_memory(scheme: Any) -> None:
    small = replace(DEVICE, shared_memory=99 * 1024, is_interpreted=False)
    workspace = LinearWorkspace.allocate(WHERE)
    for columns in (576, 4096):
        scales = {"scale": torch.zeros(1, 1024)}
        weight = PackedWeight(scheme.name, 1024, columns, scales)
        assert all(candidates(n, weight, workspace, small) for n in row_buckets(scheme.name))


def test_buckets_of_rows() -> None:
    assert [rows_of(rows) for rows in (1, 8, 9, 33, 128, 5000)] == [8, 8, 16, 64, 128, 128]
    assert bucket("w4a16", 300) == 512 and bucket("w8a16", 9999) == 2048
    assert bucket("w4a16", 5) == 8 and bucket("int8_rows", 5) == 16
    assert bucket("bf16_rows", 300) is None and bucket("bf16_rows", 3) == 16


def test_rounded_matrices_keep_their_values_where_the_words_hold_them() -> None:
    weight_NC = random(24, 256, dtype=torch.float32)
    matrix = nearest_int4(weight_NC, group_size=64)
    kept = W4A16.pack_rounded(matrix)
    assert relative_error(W4A16.unpack(kept), matrix.dequantized()) < 1e-3
    for other in (
        RoundedMatrix(
            kind="int4",
            values_NC=matrix.values_NC,
            scales_NG=matrix.scales_NG,
            zeros_NG=matrix.zeros() + 0.5,
        ),
        nearest_int4(weight_NC, group_size=16),
    ):
        held = W4A16.pack_rounded(other)
        assert held.scheme == "w8a16"
        assert relative_error(W8A16.unpack(held), other.dequantized()) < 1e-2


@pytest.mark.parametrize("config", [LinearConfig(**CONFIG), None])
def test_x_follows_columns_that_were_sorted(config: LinearConfig | None) -> None:
    matrix = nearest_int4(random(24, 256, dtype=torch.float32), group_size=64)
    order_C = torch.randperm(256, generator=torch.Generator().manual_seed(0)).to(WHERE)
    matrix = replace(matrix, order_C=order_C)
    weight, x = W4A16.pack_rounded(matrix), random(3, 256, seed=2)
    assert relative_error(W4A16.unpack(weight), matrix.dequantized()) < 1e-3
    workspace = LinearWorkspace.allocate(WHERE)
    y = product(x, weight, None, config, workspace, DEVICE, DTYPE, sums=True)
    assert relative_error(y, W4A16.linear(x, weight)) < TOLERANCE


@pytest.mark.parametrize(("bits", "field"), [(4, i) for i in range(4)] + [(8, i) for i in range(2)])
def test_the_assembly_is_exact_for_every_word(bits: int, field: int) -> None:
    words = torch.arange(1 << 16)
    value = (words >> (bits * field)) & ((1 << bits) - 1)
    expected = value.double() if bits == 4 else ((value ^ 128) - 128).double()
    zeros = (0, 8, 16, 127) if bits == 4 else (0,)
    for zero in zeros:
        negative = 0xC300 | zero
        inputs = {"$1": words | (words.flip(0) << 16), "$2": negative | negative << 16}
        out = run_assembly(weight_only._assembly(bits, field), inputs)
        assert torch.equal(as_bf16(out & 0xFFFF), expected - zero)
        assert torch.equal(as_bf16(out >> 16), expected.flip(0) - zero)


def run_assembly(code: str, registers: dict[str, Any]) -> torch.Tensor:
    """The few instructions of PTX that the kernel uses, on all words at once."""
    registers = {name: torch.as_tensor(value) for name, value in registers.items()}
    for line in re.sub(r"[{}]|\.reg[^;]*;", "", code).split(";"):
        operation, _, operands = line.strip().partition(" ")
        if not operation:
            continue
        target, *names = (name.strip() for name in operands.split(","))
        values = [registers[n] if n in registers else torch.tensor(int(n, 0)) for n in names]
        match operation:
            case "mov.b32":
                (result,) = values
            case "shr.b32":
                result = values[0] >> values[1]
            case "lop3.b32":
                assert int(values[3]) == 0xEA
                result = values[0] & values[1] | values[2]
            case "fma.rn.bf16x2":
                low, high = (
                    as_bits(a * b + c)
                    for a, b, c in (
                        [as_bf16(v >> shift & 0xFFFF) for v in values] for shift in (0, 16)
                    )
                )
                result = low | high << 16
            case _:
                raise AssertionError(operation)
        registers[target] = result
    return registers["$0"]


def as_bf16(bits: torch.Tensor) -> torch.Tensor:
    signed = torch.where(bits >= 1 << 15, bits - (1 << 16), bits)
    return signed.to(torch.int16).view(torch.bfloat16).double()


def as_bits(value: torch.Tensor) -> torch.Tensor:
    return value.bfloat16().view(torch.int16).long() & 0xFFFF


@pytest.mark.parametrize("scheme", [FP8_ROWS, INT8_ROWS, W8A16, W4A16])
def test_a_large_weight_is_rounded_in_parts(scheme: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    weight_NC = random(40, 256, dtype=torch.float32)
    whole = scheme.pack(weight_NC)
    monkeypatch.setattr(weights, "_PART", 16 * 256)
    parts = scheme.pack(weight_NC)
    assert (parts.scheme, parts.num_rows, parts.num_columns) == (whole.scheme, 40, 256)
    for name, tensor in whole.tensors.items():
        assert torch.equal(parts.tensors[name].float(), tensor.float())
