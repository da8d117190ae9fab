"""Asymmetric calibration: a linear is fitted to what it gave in the exact model, though its input
comes from layers that are rounded already. So it makes up for their errors, which otherwise add up
from layer to layer.

Li, Yin, Lee, Xiao, Panda: "GPTAQ: Efficient Finetuning-Free Quantization for Asymmetric
Calibration", https://arxiv.org/abs/2504.02692. There the correction is part of each step of GPTQ;
here it comes before, in one ridge regression, so that any way of rounding can follow.

N, C output and input features   T tokens
"""

import torch

from nimlite.quant.gptq import cut

_RIDGE = 3.0
"""Times the median of the Hessian's diagonal: what keeps the weight near its own, so that a few
thousand tokens are not learned by heart."""


def drift(x_TC: torch.Tensor, exact_TC: torch.Tensor) -> torch.Tensor:
    """2 X^T (X_exact - X), [C, C] in fp32, with the tokens cut as `gptq.hessian` cuts them."""
    cut_T1 = cut(x_TC)
    return 2 * (x_TC.float() * cut_T1).T @ ((exact_TC.float() - x_TC.float()) * cut_T1)


def corrected(
    weight_NC: torch.Tensor, hessian_CC: torch.Tensor, drift_CC: torch.Tensor
) -> torch.Tensor:
    """The weight near `weight_NC` whose product with x is nearest to that of `weight_NC` with the
    exact x: the W' of the least |X W'^T - X_exact W^T|^2 + ridge |W' - W|^2."""
    diagonal_C = hessian_CC.diagonal()
    used_C = diagonal_C[diagonal_C > 0]
    ridge = _RIDGE * float(used_C.median()) if len(used_C) else 1.0
    factor_CC = torch.linalg.cholesky(
        hessian_CC + ridge * torch.eye(len(diagonal_C), device=hessian_CC.device)
    )
    shift_CC = torch.cholesky_solve(drift_CC, factor_CC)
    return weight_NC.float() + weight_NC.float() @ shift_CC.T
