"""fp8 e4m3: rows with a scale each, or with one that calibration fixed.

Micikevicius et al.: "FP8 formats for deep learning", https://arxiv.org/abs/2209.05433.

T tokens   C input features
"""

import torch

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
"""The largest number; e4m3 has no infinity."""
_LEAST = 1e-12


def static_input_scale(x_TC: torch.Tensor) -> float:
    """What an input like the sample `x_TC` is to be divided by: its largest / 448."""
    return max(float(x_TC.abs().max()), _LEAST) / FP8_MAX


def round_inputs(x_TC: torch.Tensor, input_scale: float | None = None) -> torch.Tensor:
    """fp32 `x_TC` on the values of e4m3 times `input_scale`; None: times each row's largest / 448.
    What is beyond the largest becomes that."""
    x_TC = x_TC.float()
    scales: torch.Tensor | float = row_scales(x_TC) if input_scale is None else input_scale
    return to_fp8(x_TC / scales).float() * scales


def row_scales(x_TC: torch.Tensor) -> torch.Tensor:
    """Each row's largest / 448: [T, 1]."""
    return x_TC.abs().amax(dim=1, keepdim=True).clamp(min=_LEAST) / FP8_MAX


def to_fp8(x: torch.Tensor) -> torch.Tensor:
    """To nearest, ties to even, saturating."""
    return x.clamp(-FP8_MAX, FP8_MAX).to(FP8)
