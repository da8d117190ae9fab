"""Experts on the CPU in every weight format, against their plain-torch twin."""

import pytest
import torch

from nimlite.kernels.base import Experts
from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.quant import SCHEMES

HIDDEN, INNER, EXPERTS = 96, 64, 5


def expected(x_TD: torch.Tensor, router_TE: torch.Tensor, experts: Experts) -> torch.Tensor:
    """By the arithmetic of the format, expert by expert."""
    scheme = SCHEMES[experts.up.scheme]
    p_Tk, chosen_Tk = router_TE.softmax(dim=-1).topk(experts.per_token, dim=-1)
    p_Tk = p_Tk / p_Tk.sum(dim=-1, keepdim=True)
    up_EUD = scheme.unpack(experts.up).chunk(EXPERTS)
    down_EDI = scheme.unpack(experts.down).chunk(EXPERTS)
    y_TD = torch.zeros_like(x_TD)
    for token, chosen_k in enumerate(chosen_Tk.tolist()):
        for place, expert in enumerate(chosen_k):
            up, down = scheme.pack(up_EUD[expert]), scheme.pack(down_EDI[expert])
            gate_1I, up_1I = scheme.linear(x_TD[token : token + 1], up).chunk(2, dim=-1)
            z_1D = scheme.linear(torch.nn.functional.silu(gate_1I) * up_1I, down)
            y_TD[token] += p_Tk[token, place] * z_1D[0]
    return y_TD


@pytest.mark.parametrize("name", SCHEMES)
def test_experts_in_every_format(name: str, kernels: CpuKernels) -> None:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    scheme = SCHEMES[name]
    experts = Experts(
        up=scheme.pack(random(EXPERTS * 2 * INNER, HIDDEN) * 0.2),
        down=scheme.pack(random(EXPERTS * HIDDEN, INNER) * 0.2),
        num_experts=EXPERTS,
        per_token=2,
        normalize=True,
        activation="silu",
    )
    x_TD, router_TE = random(9, HIDDEN), random(9, EXPERTS)
    found_TD = kernels.moe(x_TD, router_TE, experts)
    expected_TD = expected(x_TD, router_TE, experts)
    error = (found_TD - expected_TD).norm() / expected_TD.norm()
    assert error <= 2e-3
    for token in range(9):  # whatever runs beside it
        one = slice(token, token + 1)
        alone_1D = kernels.moe(x_TD[one], router_TE[one].contiguous(), experts)
        assert torch.equal(alone_1D[0], found_TD[token])
