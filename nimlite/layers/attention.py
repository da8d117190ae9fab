"""Self-attention over the paged KV pool."""

from dataclasses import dataclass

import torch

from nimlite.kernels.base import Batch, Kernels, KVLayout, Scores
from nimlite.layers.linear import Linear, Weights, dense, device_of
from nimlite.layers.relative_bias import bias_by_distance
from nimlite.layers.shard import Shard
from nimlite.models.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class HeadNorms:
    """RMSNorm of every query head and of every key head."""

    query_K: torch.Tensor
    key_K: torch.Tensor
    eps: float


@dataclass(frozen=True, slots=True)
class Attention:
    """Fused QKV, positions, paged attention, output projection."""

    qkv: Linear
    output: Linear
    num_heads: int
    layout: KVLayout
    scores: Scores
    cos_sin_PK: torch.Tensor | None
    """As wide as the part of a head that turns; None: nothing turns."""
    head_norms: HeadNorms | None = None
    clip: float = 0.0

    @classmethod
    def load(
        cls,
        spec: ModelSpec,
        weights: Weights,
        layer: int,
        layout: KVLayout,
        cos_sin_PK: torch.Tensor | None,
        shard: Shard,
    ) -> "Attention":
        name = f"layers.{layer}"
        qkv = Linear.load(weights, f"{name}.qkv")
        head_norms = None
        if spec.qk_norm:
            q_norm_K, k_norm_K = (dense(weights, f"{name}.{kind}_norm") for kind in "qk")
            head_norms = HeadNorms(q_norm_K, k_norm_K, spec.norm_eps)
        heads, slopes_H = shard.heads(spec.num_heads, spec.num_kv_heads), None
        if spec.alibi_slopes:
            mine = [spec.alibi_slopes[head] for head in heads]
            slopes_H = torch.tensor(mine, device=device_of(weights))
        bias_HP = None
        if spec.relative_bias is not None:
            values_HN = dense(weights, "relative_bias")
            bias_HP = bias_by_distance(spec.relative_bias, values_HN, causal=spec.causal)
        return cls(
            qkv=qkv,
            output=Linear.load(weights, f"{name}.output", is_partial=shard.world > 1),
            num_heads=len(heads),
            layout=layout,
            scores=Scores(
                scale=spec.scale,
                window=spec.window(layer),
                soft_cap=spec.attention_soft_cap,
                slopes_H=slopes_H,
                bias_HP=bias_HP,
                causal=spec.causal,
            ),
            cos_sin_PK=cos_sin_PK,
            head_norms=head_norms,
            clip=spec.clip_qkv,
        )

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
        """y_TD, or y_RD of the rows `rows_R` alone. `kv`: this layer's part of the pool; `added` as
        for `Linear`."""
        qkv_TE = self.project(x_TD, kv, batch, kernels)
        return self.output(self.attend(qkv_TE, kv, batch, kernels, rows_R), kernels, added=added)

    def project(
        self, x_TD: torch.Tensor, kv: torch.Tensor, batch: Batch, kernels: Kernels
    ) -> torch.Tensor:
        """qkv_TE, rotated, with keys and values written to the pool."""
        qkv_TE = self.qkv(x_TD, kernels)
        self.place(qkv_TE, kv, batch, kernels)
        return qkv_TE

    def place(self, qkv_TE: torch.Tensor, kv: torch.Tensor, batch: Batch, kernels: Kernels) -> None:
        """Rotate the queries and keys of qkv in place, and write keys and values to the pool."""
        if self.clip:
            kernels.clip(qkv_TE, self.clip)
        if self.head_norms is not None:
            norms = self.head_norms
            kernels.norm_heads(qkv_TE, norms.query_K, norms.key_K, norms.eps, self.layout)
        kernels.rope_and_cache(qkv_TE, self.cos_sin_PK, kv, batch, self.layout)

    def attend(
        self,
        qkv_TE: torch.Tensor,
        kv: torch.Tensor,
        batch: Batch,
        kernels: Kernels,
        rows_R: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What the rotated queries find in the pool: o_TD, or o_RD of the rows `rows_R` alone."""
        o_TD = kernels.attention(qkv_TE, kv, batch, self.layout, self.num_heads, self.scores)
        return o_TD if rows_R is None else kernels.take_rows(o_TD, rows_R)
