"""Self-attention over the paged KV pool."""

from dataclasses import dataclass

import torch

from nimlite.kernels.base import Batch, Kernels, KVLayout
from nimlite.layers.linear import Linear


@dataclass(frozen=True, slots=True)
class Attention:
    """Fused QKV, rotary positions, paged causal attention, output projection."""

    qkv: Linear
    output: Linear
    num_heads: int
    cos_sin_PK: torch.Tensor
    layout: KVLayout

    def __call__(
        self,
        x_TD: torch.Tensor,
        kv: torch.Tensor,
        batch: Batch,
        kernels: Kernels,
        rows_R: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """y_TD, or y_RD of the rows `rows_R` alone. `kv`: this layer's part of the pool."""
        qkv_TE = self.project(x_TD, kv, batch, kernels)
        scale = self.layout.head_dim**-0.5
        o_TD = kernels.attention(qkv_TE, kv, batch, self.layout, self.num_heads, scale)
        if rows_R is not None:
            o_TD = kernels.take_rows(o_TD, rows_R)
        return self.output(o_TD, kernels, added=True)

    def project(
        self, x_TD: torch.Tensor, kv: torch.Tensor, batch: Batch, kernels: Kernels
    ) -> torch.Tensor:
        """qkv_TE, rotated, with keys and values written to the pool."""
        qkv_TE = self.qkv(x_TD, kernels)
        kernels.rope_and_cache(qkv_TE, self.cos_sin_PK, kv, batch, self.layout)
        return qkv_TE
