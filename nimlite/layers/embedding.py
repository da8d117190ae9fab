"""Tokens in, and logits out."""

from dataclasses import dataclass

import torch

from nimlite.kernels.base import Batch, Kernels
from nimlite.layers.linear import Linear, Weights, dense, packed
from nimlite.layers.norm import Norm, load_norm
from nimlite.layers.shard import Shard
from nimlite.models.spec import ModelSpec
from nimlite.quant.base import PackedWeight


@dataclass(frozen=True, slots=True)
class Embedding:
    """The residual stream's beginning: a token's row, scaled, with its position's and normed."""

    tokens: PackedWeight
    scale: float
    positions_PD: torch.Tensor | None
    norm: Norm | None
    first: int
    """The first token that the rank has a row of."""
    is_partial: bool
    """Other ranks have other rows."""

    @classmethod
    def load(cls, spec: ModelSpec, weights: Weights, shard: Shard) -> "Embedding":
        is_normed = spec.embedding_norm and spec.block != "post"  # there it is the first layer's
        return cls(
            packed(weights, "embedding"),
            spec.embedding_scale,
            _positions(spec, weights),
            load_norm(spec, weights, "embedding_norm") if is_normed else None,
            shard.features(spec.vocab_size).start,
            shard.world > 1,
        )

    def __call__(self, batch: Batch, kernels: Kernels) -> torch.Tensor:
        """The residual stream."""
        x_TD = kernels.embed(self.tokens, batch.token_ids_T, self.scale, self.first)
        if self.is_partial:
            x_TD = kernels.sum_ranks(x_TD)
        if self.positions_PD is not None:
            kernels.add_positions(x_TD, self.positions_PD, batch.positions_T)
        return x_TD if self.norm is None else kernels.widen(self.norm(x_TD, kernels))


@dataclass(frozen=True, slots=True)
class Handover:
    """The residual stream as the stage before left it."""

    hidden_size: int

    def __call__(self, batch: Batch, kernels: Kernels) -> torch.Tensor:
        return kernels.take_over(batch.token_ids_T, self.hidden_size)


def _positions(spec: ModelSpec, weights: Weights) -> torch.Tensor | None:
    if not spec.learned_positions:
        return None
    positions_PD = dense(weights, "positions")
    return positions_PD + dense(weights, "token_types")[0] if spec.token_types else positions_PD


@dataclass(frozen=True, slots=True)
class Head:
    """Logits of normed rows."""

    linear: Linear
    soft_cap: float
    sizes: tuple[int, ...]
    """How many tokens' logits each rank computes."""

    @classmethod
    def load(cls, spec: ModelSpec, weights: Weights, shard: Shard) -> "Head":
        name = "embedding" if spec.tie_embeddings else "head"
        bias_N = dense(weights, "head.bias").view(-1) if spec.head_bias else None
        ranks = (Shard(rank, shard.world) for rank in range(shard.world))
        sizes = tuple(len(rank.features(spec.vocab_size)) for rank in ranks)
        return cls(Linear(packed(weights, name), bias_N), spec.logit_soft_cap, sizes)

    def __call__(self, x_RD: torch.Tensor, kernels: Kernels) -> torch.Tensor:
        logits_RV = kernels.head(x_RD, self.linear.weight, self.linear.bias_N)
        if self.soft_cap:
            kernels.soft_cap(logits_RV, self.soft_cap)
        return logits_RV if len(self.sizes) == 1 else kernels.gather_columns(logits_RV, self.sizes)
