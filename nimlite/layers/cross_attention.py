"""A decoder's attention to what its encoder has read."""

from dataclasses import dataclass

import torch

from nimlite.kernels.base import Batch, Kernels, KVLayout, Scores
from nimlite.layers.linear import Linear, Weights, packed
from nimlite.layers.norm import Norm, load_norm
from nimlite.layers.shard import Shard
from nimlite.models.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class CrossAttention:
    """Keys and values of the encoder's output, which lie in blocks of the pool as a text's own do,
    and queries of the decoder's tokens, which see all of them."""

    norm: Norm
    """Before it; in a post block behind it."""
    q: Linear
    kv: Linear
    output: Linear
    num_heads: int
    layout: KVLayout
    scores: Scores

    @classmethod
    def load(
        cls, spec: ModelSpec, weights: Weights, layer: int, layout: KVLayout, shard: Shard
    ) -> "CrossAttention":
        name = f"layers.{layer}"
        if spec.block == "post":
            norm = load_norm(spec, weights, f"{name}.cross_out_norm")
        else:
            consumer = packed(weights, f"{name}.cross_q")
            norm = load_norm(spec, weights, f"{name}.cross_norm", consumer)
        q, kv = (Linear.load(weights, f"{name}.cross_{part}") for part in ("q", "kv"))
        output = Linear.load(weights, f"{name}.cross_output", is_partial=shard.world > 1)
        num_heads = len(shard.heads(spec.num_heads, spec.num_kv_heads))
        scores = Scores(scale=spec.scale, causal=False)
        return cls(norm, q, kv, output, num_heads, layout, scores)

    def remember(
        self, x_TD: torch.Tensor, kv: torch.Tensor, batch: Batch, kernels: Kernels
    ) -> None:
        """Write the keys and values of the encoder's output to this layer's part of the pool.
        `batch`: the encoder's."""
        kernels.rope_and_cache(self.kv(x_TD, kernels), None, kv, batch, self.layout)

    def __call__(
        self,
        x_TD: torch.Tensor,
        kv: torch.Tensor,
        batch: Batch,
        kernels: Kernels,
        rows_R: torch.Tensor | None = None,
        *,
        added: bool,
    ) -> torch.Tensor:
        """y_TD, or y_RD of the rows `rows_R` alone; arguments as for `Attention`."""
        q_TQ = self.q(x_TD, kernels)
        o_TQ = kernels.attention(q_TQ, kv, batch.cross, self.layout, self.num_heads, self.scores)
        if rows_R is not None:
            o_TQ = kernels.take_rows(o_TQ, rows_R)
        return self.output(o_TQ, kernels, added=added)
