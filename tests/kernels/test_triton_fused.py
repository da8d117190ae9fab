import pytest
import torch
from torch.nn import functional
from triton_cases import DEVICE, DTYPE, TOLERANCE, pool, random, relative_error, step

from nimlite.kernels.base import KVLayout
from nimlite.kernels.triton import (
    activation,
    elementwise,
    embed,
    norm,
    reference,
    rope,
    scaled_rows,
)
from nimlite.kernels.triton.scaled_rows import FP8, ScaledRows, UnsummedRows
from nimlite.kernels.triton.weights import FP8_ROWS, INT8_ROWS

# the interpreter loses the carry where a value rounds up to the next power of two
FP8_TOLERANCE = 4e-2 if torch.cuda.is_available() else 1e-1


def same_rows(rows: ScaledRows, expected: torch.Tensor, dtype: torch.dtype = FP8) -> bool:
    """Both the rounding to 8 bits and its scale are near."""
    assert rows.values_TC.dtype == dtype
    scale = reference.quantize_rows(expected, dtype).scale_T1
    tolerance = FP8_TOLERANCE if dtype == FP8 else 2e-2
    near = relative_error(reference.dequantize(rows), expected) < tolerance
    return near and relative_error(rows.scale_T1, scale) < TOLERANCE


@pytest.mark.parametrize("dtype", [FP8, torch.int8])
def test_quantize_rows(dtype: torch.dtype) -> None:
    x = random(5, 576) * torch.tensor([[1e-3], [1.0], [30.0], [0.0], [1.0]]).to(random(1))
    rows = scaled_rows.quantize_rows(x, dtype, DEVICE)
    assert same_rows(rows, x, dtype)
    if dtype == torch.int8:
        twin = reference.quantize_rows(x, dtype).values_TC
        # ties may fall to either side
        assert float((rows.values_TC != twin).float().mean()) < 1e-3


@pytest.mark.parametrize("columns", [576, 1024])
def test_rms_norm(columns: int) -> None:
    x, weight = random(3, columns), random(columns, dtype=torch.float32, seed=1)
    consumer = FP8_ROWS.pack(random(8, columns))
    expected = reference.rms_norm(x, weight, 1e-5)
    assert relative_error(norm.rms_norm(x, weight, 1e-5, DEVICE), expected) < TOLERANCE
    assert same_rows(norm.rms_norm(x, weight, 1e-5, DEVICE, consumer), expected)
    consumer = INT8_ROWS.pack(random(8, columns))
    assert same_rows(norm.rms_norm(x, weight, 1e-5, DEVICE, consumer), expected, torch.int8)


@pytest.mark.parametrize("residual_dtype", [DTYPE, torch.float32])
def test_add_rms_norm_updates_the_residual(residual_dtype: torch.dtype) -> None:
    x, weight = random(3, 576), random(576, seed=1)
    residual = random(3, 576, dtype=residual_dtype, seed=2)
    quantized_residual = residual.clone()
    consumer = FP8_ROWS.pack(random(8, 576))
    total = (x.float() + residual.float()).to(residual_dtype)
    expected = reference.rms_norm(total, weight, 1e-5)
    y = norm.add_rms_norm(x, residual, weight, 1e-5, DEVICE)
    assert relative_error(y, expected) < TOLERANCE
    rows = norm.add_rms_norm(x, quantized_residual, weight, 1e-5, DEVICE, consumer)
    assert same_rows(rows, expected)
    assert relative_error(residual, total) < TOLERANCE
    assert torch.equal(residual, quantized_residual)


@pytest.mark.parametrize("scaled", [False, True])
def test_add_rms_norm_finishes_a_product(scaled: bool) -> None:
    parts = random(3, 5, 576, dtype=torch.float32)
    rows = random(5, 1, dtype=torch.float32, seed=1) if scaled else None
    columns = random(576, dtype=torch.float32, seed=2) if scaled else None
    residual, weight = random(5, 576, seed=3), random(576, seed=4)
    x = parts.sum(0) * rows * columns if rows is not None and columns is not None else parts.sum(0)
    total = (x + residual.float()).to(DTYPE)
    y = norm.add_rms_norm(
        UnsummedRows(parts, rows, columns), residual, weight, 1e-5, DEVICE, None, DTYPE
    )
    assert relative_error(residual, total) < TOLERANCE
    assert relative_error(y, reference.rms_norm(total, weight, 1e-5)) < TOLERANCE


@pytest.mark.parametrize("has_bias", [True, False])
def test_layer_norm(has_bias: bool) -> None:
    x, residual = random(3, 90) + 4, random(3, 90, seed=1)
    weight, bias = random(90, seed=2), random(90, seed=3) * has_bias
    given = bias if has_bias else None
    expected = reference.layer_norm(x, weight, bias, 1e-5)
    consumer = FP8_ROWS.pack(random(8, 90))
    assert relative_error(norm.layer_norm(x, weight, given, 1e-5, DEVICE), expected) < TOLERANCE
    assert same_rows(norm.layer_norm(x, weight, given, 1e-5, DEVICE, consumer), expected)
    total = (x.float() + residual.float()).to(DTYPE)
    y = norm.add_layer_norm(x, residual, weight, given, 1e-5, DEVICE)
    assert torch.equal(residual, total)
    assert relative_error(y, reference.layer_norm(total, weight, bias, 1e-5)) < TOLERANCE


def test_add_rms_norm_scales_the_sums_of_int8() -> None:
    x, weight = random(5, 64), INT8_ROWS.pack(random(576, 64, seed=1))
    rows = reference.quantize_rows(x, torch.int8)
    sums = rows.values_TC.float() @ weight.tensors["weight"].float().T
    unsummed = UnsummedRows(sums.int().unsqueeze(0), rows.scale_T1, weight.tensors["scale"])
    residual = random(5, 576, dtype=torch.float32, seed=3)
    total = residual + INT8_ROWS.linear(x, weight)
    norm.add_rms_norm(unsummed, residual, random(576, seed=4), 1e-5, DEVICE, None, DTYPE)
    assert relative_error(residual, total) < 1e-5


@pytest.mark.parametrize("name", activation.ACTIVATIONS)
def test_activation(name: str) -> None:
    gate_up = random(3, 2 * 2500)
    consumer = FP8_ROWS.pack(random(8, 2500))
    gate, up = gate_up.float().chunk(2, dim=-1)
    functions = {
        "silu": functional.silu(gate),
        "gelu": functional.gelu(gate),
        "gelu_tanh": functional.gelu(gate, approximate="tanh"),
        "relu": functional.relu(gate),
        "relu2": functional.relu(gate).square(),
    }
    plain = activation.plain_activation(gate_up[:, :2500], name, DEVICE)
    assert relative_error(plain, functions[name]) < TOLERANCE
    expected = functions[name] * up
    y = activation.gated_activation(gate_up, name, DEVICE)
    assert relative_error(y, expected) < TOLERANCE
    assert same_rows(activation.gated_activation(gate_up, name, DEVICE, consumer), expected)


@pytest.mark.parametrize(("dim", "rotary"), [(64, 64), (80, 32), (96, 96), (64, 0)])
@pytest.mark.parametrize("kv_dtype", [DTYPE, FP8])
def test_rope_and_cache(dim: int, rotary: int, kv_dtype: torch.dtype) -> None:
    batch, num_blocks = step([(1, 9), (1, 0), (5, 20), (1, 33)], 16)
    layout = KVLayout(num_blocks, 16, 2, dim, kv_dtype)
    kv = pool(layout)
    expected_kv = kv.clone()
    cos_sin = random(64, rotary, dtype=torch.float32, seed=3)
    scales = (0.5, 2.0) if kv_dtype == FP8 else (1.0, 1.0)
    qkv = random(8, (6 + 4) * dim)
    q, k, v = qkv.unflatten(-1, (10, dim)).split([6, 2, 2], dim=1)
    given = cos_sin if rotary else None
    expected_q = reference.rope(q, batch.positions_T, cos_sin)
    keys = reference.rope(k, batch.positions_T, cos_sin) / scales[0]
    reference.write_kv(expected_kv, keys, v.float() / scales[1], batch.slots_T, layout)
    rope.rope_and_cache(qkv, given, kv, batch, layout, DEVICE, scales)
    assert relative_error(qkv.unflatten(-1, (10, dim))[:, :6], expected_q) < TOLERANCE
    tolerance = FP8_TOLERANCE if kv_dtype == FP8 else TOLERANCE
    assert relative_error(kv, expected_kv) < tolerance


def test_embedding() -> None:
    table = random(50, 576)
    ids = torch.tensor([3, 49, 0, 3], dtype=torch.int32, device=table.device)
    assert torch.equal(embed.embed(table, ids, DEVICE), table[ids.long()])
    scaled = embed.embed(table, ids, DEVICE, torch.float32, 3.0)
    assert torch.equal(scaled, table[ids.long()].float() * 3)


def test_what_is_done_in_place() -> None:
    table, x = random(7, 90), random(3, 90, dtype=torch.float32, seed=1)
    rows = torch.tensor([6, 0, 6], dtype=torch.int32, device=table.device)
    expected = x + table[rows.long()].float() + table[:3].float()
    elementwise.add(x, table, DEVICE, rows)
    elementwise.add(x, table[:3], DEVICE)
    torch.testing.assert_close(x, expected)
    clipped, bent = random(3, 5000), random(3, 5000, dtype=torch.float32)
    expected = clipped.clamp(-0.5, 0.5)
    elementwise.limit(clipped, 0.5, DEVICE, soft=False)
    assert torch.equal(clipped, expected)
    expected = 2 * torch.tanh(bent / 2)
    elementwise.limit(bent, 2.0, DEVICE, soft=True)
    torch.testing.assert_close(bent, expected, atol=1e-5, rtol=1e-5)


def test_heads_are_normed() -> None:
    layout = KVLayout(1, 16, 3, 80, DTYPE)
    qkv, query, key = random(4, 23 * 80), random(80, seed=1).float(), random(80, seed=2).float()
    heads = qkv.unflatten(1, (23, 80)).clone()
    elementwise.norm_heads(qkv, query, key, 1e-5, layout, DEVICE)
    found = qkv.unflatten(1, (23, 80))
    expected = reference.rms_norm(heads[:, :17], query, 1e-5)
    assert relative_error(found[:, :17], expected) < TOLERANCE
    expected = reference.rms_norm(heads[:, 17:20], key, 1e-5)
    assert relative_error(found[:, 17:20], expected) < TOLERANCE
    assert torch.equal(found[:, 20:], heads[:, 20:])
