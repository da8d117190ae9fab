"""GPTQ: the weights are rounded one input feature after another, and those that are still free make
up for the error of each.

Frantar, Ashkboos, Hoefler, Alistarh: "GPTQ: Accurate Post-Training Quantization for Generative
Pre-trained Transformers", https://arxiv.org/abs/2210.17323, algorithm 1.

N, C output and input features   G groups along a row   T tokens   B features of a block
"""

import torch

from nimlite.quant.grid import Grid
from nimlite.quant.rounded import RoundedMatrix

_BLOCK = 128
_DAMPENING = 0.3
"""Of the median; the paper's 0.01 of the mean fits a few thousand tokens too closely:
docs/quantization.md has figures."""
LARGEST = 50.0
"""Times the median norm of the tokens."""


def hessian(x_TC: torch.Tensor) -> torch.Tensor:
    """H_CC = 2 X^T X in fp32: of the output's squared error, for every row of the weight alike.
    Those of several batches add up.

    A few tokens that attention sinks into (the first of a text) may be hundreds of times as large
    as all others, which then would count for nothing: they are cut.
    """
    x_TC = x_TC.float() * cut(x_TC)
    return 2 * x_TC.T @ x_TC


def cut(x_TC: torch.Tensor) -> torch.Tensor:
    """What the tokens are multiplied by, so that none counts too much: [T, 1], at most 1."""
    norm_T1 = x_TC.float().norm(dim=1, keepdim=True)
    limit = LARGEST * norm_T1.median()
    return torch.where(norm_T1 > limit, limit / norm_T1, 1.0)


def gptq(
    weight_NC: torch.Tensor,
    hessian_CC: torch.Tensor,
    grid: Grid,
    *,
    act_order: bool = True,
    dampening: float = _DAMPENING,
) -> RoundedMatrix:
    """`weight_NC` on the values of `grid`, which was made for it.

    `act_order`: the features that matter most are rounded first, while all others can still make up
    for them. The grid is fixed before from the features' own order, so that the result has no
    order of its own and costs nothing at run time. `dampening`: what is added to the Hessian's
    diagonal, as a share of its median; more where that is not enough to invert it. A feature that
    was always 0 is rounded to nearest.
    """
    diagonal_C = hessian_CC.diagonal()
    order_C = (
        diagonal_C.argsort(descending=True, stable=True)
        if act_order
        else torch.arange(len(diagonal_C), device=diagonal_C.device)
    )
    group_size = weight_NC.shape[1] // grid.scales_NG.shape[1]
    inverse_CC = _inverse_factor(hessian_CC.float()[order_C][:, order_C], dampening)
    sorted_CN = _round_in_order(
        weight_NC.float().T[order_C], inverse_CC, grid, order_C // group_size
    )
    values_CN = torch.empty_like(sorted_CN).index_copy_(0, order_C, sorted_CN)
    return grid.matrix(values_CN.T.contiguous())


def _round_in_order(
    weight_CN: torch.Tensor, inverse_CC: torch.Tensor, grid: Grid, group_of_C: torch.Tensor
) -> torch.Tensor:
    """The values of the features in the order given; `weight_CN` is used up.

    The errors of a block reach the features behind it in one product, when the block is done.
    """
    scales_CN, zeros_CN = grid.scales_NG.T[group_of_C], grid.zeros_NG.T[group_of_C]
    values_CN = torch.empty_like(weight_CN)
    for begin in range(0, len(weight_CN), _BLOCK):
        end = min(begin + _BLOCK, len(weight_CN))
        errors_BN = torch.empty_like(weight_CN[begin:end])
        for i in range(begin, end):
            scales_N, zeros_N = scales_CN[i], zeros_CN[i]
            values_CN[i] = grid.snap(weight_CN[i] / scales_N + zeros_N)
            difference_N = weight_CN[i] - (values_CN[i] - zeros_N) * scales_N
            error_N = difference_N / inverse_CC[i, i]
            weight_CN[i + 1 : end] -= torch.outer(inverse_CC[i, i + 1 : end], error_N)
            errors_BN[i - begin] = error_N
        weight_CN[end:] -= inverse_CC[begin:end, end:].T @ errors_BN
    return values_CN


def _inverse_factor(hessian_CC: torch.Tensor, dampening: float) -> torch.Tensor:
    """The upper Cholesky factor of the inverse of the dampened Hessian."""
    diagonal_C = hessian_CC.diagonal()
    dead_C = diagonal_C <= 0
    median = float(diagonal_C[~dead_C].median()) if not bool(dead_C.all()) else 1.0
    hessian_CC = hessian_CC + torch.diag(torch.where(dead_C, median, 0.0))
    identity_CC = torch.eye(len(diagonal_C), device=hessian_CC.device)
    while True:
        dampened_CC = hessian_CC + median * dampening * identity_CC
        factor_CC, failed = torch.linalg.cholesky_ex(dampened_CC)
        if not int(failed):
            inverse_CC: torch.Tensor
            inverse_CC, failed = torch.linalg.cholesky_ex(
                torch.cholesky_inverse(factor_CC), upper=True
            )
            if not int(failed) and bool(inverse_CC.isfinite().all()):
                return inverse_CC
        dampening = max(10 * dampening, 1e-6)
        assert dampening < 1e6, "a Hessian that is not finite or not positive"
