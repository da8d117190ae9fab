"""Tokens in, and logits out."""

from dataclasses import dataclass

import torch

from nimlite.kernels.base import Batch, Kernels
from nimlite.layers.linear import Linear, Weights, dense, packed
from nimlite.layers.norm import Norm, load_norm
from nimlite.models.spec import ModelSpec
from nimlite.quant.base import PackedWeight


@dataclass(frozen=True, slots=True)
class Embedding:
    """The residual stream's beginning: a token's row, scaled, with its position's and normed."""

    tokens: PackedWeight
    scale: float
    positions_PD: torch.Tensor | None
    norm: Norm | None

    @classmethod
    def load(cls, spec: ModelSpec, weights: Weights) -> "Embedding":
        return cls(
            packed(weights, "embedding"),
            spec.embedding_scale,
            dense(weights, "positions") if spec.learned_positions else None,
            load_norm(spec, weights, "embedding_norm") if spec.embedding_norm else None,
        )

    def __call__(self, batch: Batch, kernels: Kernels) -> torch.Tensor:
        x_TD = kernels.embed(self.tokens, batch.token_ids_T, self.scale)
        if self.positions_PD is not None:
            kernels.add_positions(x_TD, self.positions_PD, batch.positions_T)
        return x_TD if self.norm is None else kernels.widen(self.norm(x_TD, kernels))


@dataclass(frozen=True, slots=True)
class Head:
    """Logits of normed rows."""

    linear: Linear
    soft_cap: float

    @classmethod
    def load(cls, spec: ModelSpec, weights: Weights) -> "Head":
        name = "embedding" if spec.tie_embeddings else "head"
        bias_N = dense(weights, "head.bias") if spec.head_bias else None
        return cls(Linear(packed(weights, name), bias_N), spec.logit_soft_cap)

    def __call__(self, x_RD: torch.Tensor, kernels: Kernels) -> torch.Tensor:
        logits_RV = kernels.head(x_RD, self.linear.weight, self.linear.bias_N)
        if self.soft_cap:
            kernels.soft_cap(logits_RV, self.soft_cap)
        return logits_RV
