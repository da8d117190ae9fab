"""Norms, activations, rows and rotary positions in C++ against the torch twin."""

import pytest
import torch
from kernel_cases import Heads, ragged_batch, random, relative_error

from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.kernels.torch_kernels import ACTIVATIONS, TorchKernels

TWIN = TorchKernels()


@pytest.mark.parametrize("size", [7, 64, 100])
def test_norms(kernels: CpuKernels, size: int) -> None:
    x_TD, residual_TD, weight_D = random(5, size), random(5, size, seed=1), random(size, seed=2)
    expected = TWIN.rms_norm(x_TD, weight_D, 1e-5)
    assert relative_error(kernels.rms_norm(x_TD, weight_D, 1e-5), expected) <= 1e-6
    sum_TD = residual_TD.clone()
    expected = TWIN.add_rms_norm(x_TD, sum_TD, weight_D, 1e-5)
    value = kernels.add_rms_norm(x_TD, residual_TD, weight_D, 1e-5)
    assert relative_error(value, expected) <= 1e-6
    assert torch.equal(residual_TD, sum_TD)


@pytest.mark.parametrize("size", [7, 64, 100])
@pytest.mark.parametrize("has_bias", [True, False])
def test_layer_norms(kernels: CpuKernels, size: int, has_bias: bool) -> None:
    x_TD, residual_TD = random(5, size) + 9, random(5, size, seed=1)
    weight_D, bias_D = random(size, seed=2), random(size, seed=3) if has_bias else None
    expected = TWIN.layer_norm(x_TD, weight_D, bias_D, 1e-5)
    assert relative_error(kernels.layer_norm(x_TD, weight_D, bias_D, 1e-5), expected) <= 3e-6
    sum_TD = residual_TD.clone()
    expected = TWIN.add_layer_norm(x_TD, sum_TD, weight_D, bias_D, 1e-5)
    value = kernels.add_layer_norm(x_TD, residual_TD, weight_D, bias_D, 1e-5)
    assert relative_error(value, expected) <= 1e-6
    assert torch.equal(residual_TD, sum_TD)


def test_heads_are_normed(kernels: CpuKernels) -> None:
    heads = Heads(num_heads=4, num_kv_heads=2, head_dim=48)
    query_K, key_K = random(48, seed=1), random(48, seed=2)
    value = random(5, heads.qkv_size)
    expected = value.clone()
    kernels.norm_heads(value, query_K, key_K, 1e-5, heads.layout(1))
    TWIN.norm_heads(expected, query_K, key_K, 1e-5, heads.layout(1))
    assert relative_error(value, expected) <= 1e-6


def test_what_is_done_in_place(kernels: CpuKernels) -> None:
    table_PD, positions_T = random(9, 33, seed=1), torch.tensor([8, 0, 8], dtype=torch.int32)
    results = []
    for device in (kernels, TWIN):
        x_TD, y_TD = random(3, 33), random(3, 33, seed=2)
        device.add_positions(x_TD, table_PD, positions_T)
        device.add(x_TD, y_TD)
        device.soft_cap(x_TD, 2.0)
        device.clip(x_TD, 1.5)
        results.append(x_TD)
    assert results[0].abs().max() == 1.5
    torch.testing.assert_close(*results, atol=1e-6, rtol=0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(kernels: CpuKernels, activation: str) -> None:
    gate = torch.cat([torch.linspace(-100, 100, 2001), torch.linspace(-6, 6, 2002)])
    gate_up_T2I = torch.cat([gate, torch.ones_like(gate)]).unsqueeze(0)
    value = kernels.gated_activation(gate_up_T2I, activation)
    expected = TWIN.gated_activation(gate_up_T2I, activation)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(kernels.activation(gate.unsqueeze(0), activation), value)


def test_take_rows(kernels: CpuKernels) -> None:
    x_TD, rows_R = random(6, 33), torch.tensor([5, 0, 5], dtype=torch.int32)
    assert torch.equal(kernels.take_rows(x_TD, rows_R), x_TD[rows_R])


@pytest.mark.parametrize(("head_dim", "rotary"), [(16, 16), (48, 48), (64, 24), (64, 0)])
def test_queries_and_keys_are_rotated(kernels: CpuKernels, head_dim: int, rotary: int) -> None:
    heads = Heads(num_heads=4, num_kv_heads=2, head_dim=head_dim)
    batch, num_blocks = ragged_batch([(3, 2), (0, 5)], 16, torch.Generator().manual_seed(0))
    layout = heads.layout(num_blocks)
    qkv_TE, cos_sin_PR = random(7, heads.qkv_size), random(20, rotary, seed=1)
    rotated = []
    for device in (kernels, TWIN):
        rotated.append(qkv_TE.clone())
        kv = device.allocate_kv(1, layout)[0]
        device.rope_and_cache(rotated[-1], cos_sin_PR if rotary else None, kv, batch, layout)
    assert torch.equal(*rotated)
