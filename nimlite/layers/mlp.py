"""The gated feed-forward layer."""

from dataclasses import dataclass

import torch

from nimlite.kernels.base import Kernels
from nimlite.layers.linear import Linear


@dataclass(frozen=True, slots=True)
class GatedMLP:
    """down(activation(gate(x)) * up(x)), with gate and up fused, to be added to the residual."""

    gate_up: Linear
    down: Linear
    activation: str

    def __call__(self, x_TD: torch.Tensor, kernels: Kernels) -> torch.Tensor:
        gate_up_T2I = self.gate_up(x_TD, kernels)
        y_TI = kernels.gated_activation(gate_up_T2I, self.activation, self.down.weight)
        return self.down(y_TI, kernels, added=True)
