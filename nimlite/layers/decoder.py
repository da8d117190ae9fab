"""The one forward that every decoder-only family shares, composed from its spec."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from nimlite.kernels.base import Batch, Kernels, KVLayout
from nimlite.layers.attention import Attention
from nimlite.layers.block import Block, input_norm, load_block
from nimlite.layers.embedding import Embedding, Head
from nimlite.layers.linear import Weights, dense
from nimlite.layers.norm import Norm, load_norm
from nimlite.layers.rotary import layer_tables
from nimlite.layers.shard import WHOLE, Shard
from nimlite.models.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Decoder:
    """Embedding, blocks, final norm, head."""

    spec: ModelSpec
    layout: KVLayout
    embedding: Embedding
    first_norm: Norm
    blocks: tuple[Block, ...]
    """Each holds the norm in front of the next one; the last, the final norm."""
    head: Head

    @classmethod
    def load(
        cls,
        spec: ModelSpec,
        weights: Weights,
        layout: KVLayout,
        shard: Shard = WHOLE,
        max_model_len: int | None = None,
    ) -> "Decoder":
        """Assemble the layers from one rank's engine tensors; nothing is copied. `max_model_len`:
        as long as a text may be, on which some ways to stretch rotary positions depend; None: as
        long as the model allows."""
        head = Head.load(spec, weights)
        attentions = _attentions(spec, weights, layout, shard, max_model_len)
        norms = [input_norm(spec, weights, i) for i in range(spec.num_layers)]
        norms.append(load_norm(spec, weights, "final_norm", head.linear.weight))
        return cls(
            spec=spec,
            layout=layout,
            embedding=Embedding.load(spec, weights),
            first_norm=norms[0],
            blocks=tuple(
                load_block(spec, weights, i, attention, norms[i + 1])
                for i, attention in enumerate(attentions)
            ),
            head=head,
        )

    def __call__(self, batch: Batch, kv: torch.Tensor, kernels: Kernels) -> torch.Tensor:
        """Logits_RV of the batch's `logit_rows`, with the keys and values of its tokens written to
        `kv`, the whole pool."""
        residual_TD = self.embedding(batch, kernels)
        x_TD = self.first_norm(residual_TD, kernels)
        *inner, last = self.blocks
        for layer, block in enumerate(inner):
            x_TD, residual_TD = block(x_TD, residual_TD, kv[layer], batch, kernels)
        kv_of_last, rows_R = kv[len(inner)], batch.logit_rows_R
        if not len(rows_R):  # a prompt's chunk before its last
            last.attention.project(x_TD, kv_of_last, batch, kernels)
            return residual_TD.new_empty((0, self.spec.vocab_size))
        # Nothing reads the last block's other rows: a prompt's cost only their attention.
        x_RD, _ = last(x_TD, residual_TD, kv_of_last, batch, kernels, rows_R)
        return self.head(x_RD, kernels)


def _attentions(
    spec: ModelSpec, weights: Weights, layout: KVLayout, shard: Shard, max_model_len: int | None
) -> Iterator[Attention]:
    tables = layer_tables(spec, max_model_len, dense(weights, "final_norm").device)
    for i, cos_sin_PK in enumerate(tables):
        yield Attention.load(spec, weights, i, layout, cos_sin_PK, shard)
