"""A mixture of experts: many MLPs, a few of which compute each token."""

from dataclasses import dataclass

import torch

from nimlite.kernels.base import Experts, Kernels
from nimlite.layers.linear import Linear, Weights, packed
from nimlite.layers.mlp import GatedMLP
from nimlite.layers.shard import Shard
from nimlite.models.spec import ModelSpec, MoeSpec
from nimlite.quant.base import PackedWeight


@dataclass(frozen=True, slots=True)
class SharedExpert:
    """sigmoid(gate(x)) * mlp(x): of every token."""

    gate: Linear
    mlp: GatedMLP


@dataclass(frozen=True, slots=True)
class MixtureOfExperts:
    """The sum over the likeliest experts, by the router, of probability * mlp(x)."""

    router: PackedWeight
    experts: Experts
    shared: SharedExpert | None
    is_partial: bool
    """The rank has a share of every expert: what comes out of all ranks is summed."""

    @property
    def first(self) -> PackedWeight | None:
        return None

    def __call__(self, x_TD: torch.Tensor, kernels: Kernels, *, added: bool) -> torch.Tensor:
        router_TE = kernels.head(x_TD, self.router, None)
        y_TD = kernels.moe(x_TD, router_TE, self.experts)
        if self.shared is not None:
            gate_T1 = self.shared.gate(x_TD, kernels)
            kernels.add_gated(y_TD, self.shared.mlp(x_TD, kernels, added=False), gate_T1)
        return kernels.sum_ranks(y_TD, added) if self.is_partial else y_TD


def load_moe(
    spec: ModelSpec, moe: MoeSpec, weights: Weights, layer: int, shard: Shard
) -> MixtureOfExperts:
    name = f"layers.{layer}"
    experts = Experts(
        up=packed(weights, f"{name}.experts_up"),
        down=packed(weights, f"{name}.experts_down"),
        num_experts=moe.num_experts,
        per_token=moe.experts_per_token,
        normalize=moe.normalize,
        activation=spec.activation,
    )
    shared = None
    if moe.shared_size:
        gate_up, down = (Linear.load(weights, f"{name}.{part}") for part in ("gate_up", "down"))
        mlp = GatedMLP(gate_up, down, spec.activation)
        shared = SharedExpert(Linear.load(weights, f"{name}.shared_gate"), mlp)
    return MixtureOfExperts(packed(weights, f"{name}.router"), experts, shared, shard.world > 1)
