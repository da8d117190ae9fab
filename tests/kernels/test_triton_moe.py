"""The grouped products of a mixture of experts against their plain-torch twin."""

from collections.abc import Callable

import pytest
import torch
from triton_cases import DEVICE, DTYPE, TOLERANCE, WHERE, random, relative_error

from nimlite.kernels.base import Experts
from nimlite.kernels.torch_kernels import TorchKernels
from nimlite.kernels.triton import weights
from nimlite.kernels.triton.moe import ExpertsConfig, moe
from nimlite.kernels.triton.weights import FP8_ROWS, INT8_ROWS, W4A16, W8A16, RowsScheme
from nimlite.quant import SCHEMES
from nimlite.quant.base import PackedWeight
from nimlite.quant.rtn import nearest_int4

ROWS = RowsScheme("rows", DTYPE)
SMALL = ExpertsConfig(rows=16, block_n=64, block_c=32, num_warps=4, num_stages=1)


def experts(
    num_experts: int,
    per_token: int,
    normalize: bool,
    inner: int = 48,
    hidden: int = 72,
    pack: Callable[[torch.Tensor], PackedWeight] = ROWS.pack,
) -> Experts:
    return Experts(
        up=pack(random(num_experts * 2 * inner, hidden, seed=1) * 0.1),
        down=pack(random(num_experts * hidden, inner, seed=2) * 0.1),
        num_experts=num_experts,
        per_token=per_token,
        normalize=normalize,
        activation="silu",
    )


def twin(x_TD: torch.Tensor, router_TE: torch.Tensor, layer: Experts) -> torch.Tensor:
    unpacked = (weights.SCHEMES.get(w.scheme, ROWS).unpack(w) for w in (layer.up, layer.down))
    up, down = (SCHEMES["fp32"].pack(weight_NC.cpu()) for weight_NC in unpacked)
    plain = Experts(up, down, layer.num_experts, layer.per_token, layer.normalize, layer.activation)
    return TorchKernels().moe(x_TD.float().cpu(), router_TE.cpu(), plain)


@pytest.mark.parametrize("config", [SMALL, None])
@pytest.mark.parametrize(
    ("num_rows", "num_experts", "per_token", "normalize"),
    [(1, 8, 2, True), (7, 5, 3, False), (33, 4, 1, True), (90, 3, 2, True)],
)
def test_each_token_gets_its_experts(
    num_rows: int, num_experts: int, per_token: int, normalize: bool, config: ExpertsConfig | None
) -> None:
    layer = experts(num_experts, per_token, normalize)
    x_TD = random(num_rows, 72, seed=3)
    router_TE = random(num_rows, num_experts, dtype=torch.float32, seed=4)
    y_TD = moe(x_TD, router_TE, layer, DEVICE, config)
    assert y_TD.dtype == DTYPE
    assert relative_error(y_TD.cpu(), twin(x_TD, router_TE, layer)) <= TOLERANCE


def test_all_tokens_may_have_one_expert_and_equal_logits_take_the_first() -> None:
    layer = experts(6, 2, True)
    x_TD = random(20, 72, seed=3)
    router_TE = torch.zeros(20, 6, device=WHERE)
    router_TE[:, 4] = 9.0
    y_TD = moe(x_TD, router_TE, layer, DEVICE, SMALL)
    assert relative_error(y_TD.cpu(), twin(x_TD, router_TE, layer)) <= TOLERANCE


def int4_in_groups(size: int) -> Callable[[torch.Tensor], PackedWeight]:
    return lambda weight_NC: W4A16.pack_rounded(nearest_int4(weight_NC.float(), group_size=size))


@pytest.mark.parametrize("config", [SMALL, None])
@pytest.mark.parametrize("num_rows", [1, 20])
@pytest.mark.parametrize(
    ("pack", "scheme"),
    [
        (FP8_ROWS.pack, "fp8_rows"),
        (INT8_ROWS.pack, "int8_rows"),
        (W8A16.pack, "w8a16"),
        (int4_in_groups(32), "w4a16"),
        (int4_in_groups(64), "w4a16"),
        (W4A16.pack, "w4a16"),
    ],
)
def test_experts_in_fewer_bits(
    pack: Callable[[torch.Tensor], PackedWeight],
    scheme: str,
    num_rows: int,
    config: ExpertsConfig | None,
) -> None:
    layer = experts(5, 2, True, inner=64, hidden=192, pack=pack)
    assert layer.up.scheme == layer.down.scheme == scheme
    x_TD = random(num_rows, 192, seed=3)
    router_TE = random(num_rows, 5, dtype=torch.float32, seed=4)
    y_TD = moe(x_TD, router_TE, layer, DEVICE, config)
    assert relative_error(y_TD.cpu(), twin(x_TD, router_TE, layer)) <= TOLERANCE
