"""Feed-forward layers."""

from dataclasses import dataclass
from typing import Protocol

import torch

from nimlite.kernels.base import Kernels
from nimlite.layers.linear import Linear, Weights
from nimlite.layers.shard import Shard
from nimlite.models.spec import ModelSpec
from nimlite.quant.base import PackedWeight


class MLP(Protocol):
    """What a block asks of its feed-forward layer, whatever is in it."""

    @property
    def first(self) -> PackedWeight | None:
        """What its input is multiplied with; None: several that do not read the same rows."""

    def __call__(self, x_TD: torch.Tensor, kernels: Kernels, *, added: bool) -> torch.Tensor:
        """y_TD; `added` as for `Linear`."""


@dataclass(frozen=True, slots=True)
class GatedMLP:
    """down(activation(gate(x)) * up(x)), with gate and up fused."""

    gate_up: Linear
    down: Linear
    activation: str

    @property
    def first(self) -> PackedWeight | None:
        return self.gate_up.weight

    def __call__(self, x_TD: torch.Tensor, kernels: Kernels, *, added: bool) -> torch.Tensor:
        gate_up_T2I = self.gate_up(x_TD, kernels)
        y_TI = kernels.gated_activation(gate_up_T2I, self.activation, self.down.weight)
        return self.down(y_TI, kernels, added=added)


@dataclass(frozen=True, slots=True)
class PlainMLP:
    """down(activation(up(x)))."""

    up: Linear
    down: Linear
    activation: str

    @property
    def first(self) -> PackedWeight | None:
        return self.up.weight

    def __call__(self, x_TD: torch.Tensor, kernels: Kernels, *, added: bool) -> torch.Tensor:
        x_TI = self.up(x_TD, kernels)
        y_TI = kernels.activation(x_TI, self.activation, self.down.weight)
        return self.down(y_TI, kernels, added=added)


def load_mlp(spec: ModelSpec, weights: Weights, layer: int, shard: Shard) -> MLP:
    """The layer's feed-forward part of the model's kind."""
    up = Linear.load(weights, f"layers.{layer}.{spec.up_name}")
    down = Linear.load(weights, f"layers.{layer}.down", is_partial=shard.world > 1)
    return (GatedMLP if spec.gated_mlp else PlainMLP)(up, down, spec.activation)
