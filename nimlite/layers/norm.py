"""Norms of the residual stream, alone or after an addition to it."""

from dataclasses import dataclass
from typing import Protocol

import torch

from nimlite.kernels.base import Kernels
from nimlite.layers.linear import Weights, dense
from nimlite.models.spec import ModelSpec
from nimlite.quant.base import PackedWeight


class Norm(Protocol):
    """What a norm offers. Each belongs to its consumer, the weight that its result is multiplied
    with (kernels/base.py)."""

    def __call__(self, x_TD: torch.Tensor, kernels: Kernels) -> torch.Tensor:
        """The norm of x."""

    def add(self, x_TD: torch.Tensor, residual_TD: torch.Tensor, kernels: Kernels) -> torch.Tensor:
        """residual += x in place, then its norm. `x` may be a product that is `added`."""


@dataclass(frozen=True, slots=True)
class RMSNorm:
    """x / rms(x) * weight (Zhang and Sennrich, 2019, arXiv:1910.07467)."""

    weight_D: torch.Tensor
    eps: float
    consumer: PackedWeight | None

    def __call__(self, x_TD: torch.Tensor, kernels: Kernels) -> torch.Tensor:
        return kernels.rms_norm(x_TD, self.weight_D, self.eps, self.consumer)

    def add(self, x_TD: torch.Tensor, residual_TD: torch.Tensor, kernels: Kernels) -> torch.Tensor:
        return kernels.add_rms_norm(x_TD, residual_TD, self.weight_D, self.eps, self.consumer)


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """(x - mean) / deviation * weight + bias (Ba et al., 2016, arXiv:1607.06450)."""

    weight_D: torch.Tensor
    bias_D: torch.Tensor | None
    eps: float
    consumer: PackedWeight | None

    def __call__(self, x_TD: torch.Tensor, kernels: Kernels) -> torch.Tensor:
        return kernels.layer_norm(x_TD, self.weight_D, self.bias_D, self.eps, self.consumer)

    def add(self, x_TD: torch.Tensor, residual_TD: torch.Tensor, kernels: Kernels) -> torch.Tensor:
        return kernels.add_layer_norm(
            x_TD, residual_TD, self.weight_D, self.bias_D, self.eps, self.consumer
        )


@dataclass(frozen=True, slots=True)
class NoNorm:
    """Behind the last layer of a stage: the residual goes on to the next one, which norms it."""

    def __call__(self, x_TD: torch.Tensor, kernels: Kernels) -> torch.Tensor:
        return x_TD

    def add(self, x_TD: torch.Tensor, residual_TD: torch.Tensor, kernels: Kernels) -> torch.Tensor:
        kernels.add(residual_TD, x_TD)
        return residual_TD


def load_norm(
    spec: ModelSpec, weights: Weights, name: str, consumer: PackedWeight | None = None
) -> Norm:
    """The norm `name` of the model's kind."""
    weight_D = dense(weights, name)
    if spec.norm == "rms":
        return RMSNorm(weight_D, spec.norm_eps, consumer)
    bias_D = dense(weights, f"{name}.bias") if spec.norm_bias else None
    return LayerNorm(weight_D, bias_D, spec.norm_eps, consumer)
