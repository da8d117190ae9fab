"""Weights and activations that look like a layer's."""

import torch

from nimlite.quant.rounded import RoundedMatrix


def activations(num_tokens: int, num_columns: int, seed: int = 0) -> torch.Tensor:
    """x_TC, correlated across its features, some of which are far larger than the rest."""
    generator = torch.Generator().manual_seed(seed)
    mixing_CC = torch.randn(num_columns, num_columns, generator=generator) / num_columns**0.5
    mixing_CC += torch.randn(num_columns, 1, generator=generator) / num_columns**0.5
    sizes_C = torch.exp(torch.randn(num_columns, generator=generator))
    return torch.randn(num_tokens, num_columns, generator=generator) @ mixing_CC * sizes_C


def weight(num_rows: int, num_columns: int, seed: int = 1) -> torch.Tensor:
    """W_NC."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, num_columns, generator=generator) * 0.02


def output_error(x_TC: torch.Tensor, weight_NC: torch.Tensor, rounded: RoundedMatrix) -> float:
    """Euclidean norm of the output's error / that of the output."""
    difference_NC = rounded.dequantized() - weight_NC
    return float((x_TC @ difference_NC.T).norm() / (x_TC @ weight_NC.T).norm())
