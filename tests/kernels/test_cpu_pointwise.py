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


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gated_activations(kernels: CpuKernels, activation: str) -> None:
    gate = torch.cat([torch.linspace(-100, 100, 2001), torch.linspace(-6, 6, 2002)])
    gate_up_T2I = torch.cat([gate, torch.ones_like(gate)]).unsqueeze(0)
    value = kernels.gated_activation(gate_up_T2I, activation)
    expected = TWIN.gated_activation(gate_up_T2I, activation)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)


def test_take_rows(kernels: CpuKernels) -> None:
    x_TD, rows_R = random(6, 33), torch.tensor([5, 0, 5], dtype=torch.int32)
    assert torch.equal(kernels.take_rows(x_TD, rows_R), x_TD[rows_R])


@pytest.mark.parametrize("head_dim", [16, 48, 64])
def test_queries_and_keys_are_rotated(kernels: CpuKernels, head_dim: int) -> None:
    heads = Heads(num_heads=4, num_kv_heads=2, head_dim=head_dim)
    batch, num_blocks = ragged_batch([(3, 2), (0, 5)], 16, torch.Generator().manual_seed(0))
    layout = heads.layout(num_blocks)
    qkv_TE, cos_sin_PK = random(7, heads.qkv_size), random(20, head_dim, seed=1)
    rotated = []
    for device in (kernels, TWIN):
        rotated.append(qkv_TE.clone())
        kv = device.allocate_kv(1, layout)[0]
        device.rope_and_cache(rotated[-1], cos_sin_PK, kv, batch, layout)
    assert torch.equal(*rotated)
