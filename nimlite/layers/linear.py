"""A linear layer over a packed weight."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from nimlite.kernels.base import Kernels
from nimlite.quant.base import PackedWeight

Weights = Mapping[str, PackedWeight | torch.Tensor]
"""The tensors of one rank's engine file, by engine name."""


@dataclass(frozen=True, slots=True)
class Linear:
    """y_TN = x_TC @ weight_NC.T + bias_N."""

    weight: PackedWeight
    bias_N: torch.Tensor | None
    is_partial: bool = False
    """The rank has a share of the input features: the products of all are summed."""

    @classmethod
    def load(cls, weights: Weights, name: str, *, is_partial: bool = False) -> "Linear":
        bias_N = dense(weights, f"{name}.bias") if f"{name}.bias" in weights else None
        return cls(packed(weights, name), bias_N, is_partial)

    def __call__(
        self, x_TC: torch.Tensor, kernels: Kernels, *, added: bool = False
    ) -> torch.Tensor:
        """`added`: the result goes to `Kernels.add_rms_norm` and nowhere else."""
        if self.is_partial:
            y_TN = kernels.linear(x_TC, self.weight, self.bias_N)
            return kernels.sum_ranks(y_TN, added)
        return kernels.linear(x_TC, self.weight, self.bias_N, added)


def packed(weights: Weights, name: str) -> PackedWeight:
    """The quantized (or packed) matrix `name`."""
    weight = weights[name]
    assert isinstance(weight, PackedWeight), f"{name} is not a packed weight"
    return weight


def dense(weights: Weights, name: str) -> torch.Tensor:
    """The plain tensor `name`: a norm or a bias."""
    weight = weights[name]
    assert isinstance(weight, torch.Tensor), f"{name} is not a plain tensor"
    return weight


def device_of(weights: Weights) -> torch.device:
    """Where the tensors lie."""
    weight = next(iter(weights.values()))
    return weight.device if isinstance(weight, torch.Tensor) else weight.tensors["weight"].device
