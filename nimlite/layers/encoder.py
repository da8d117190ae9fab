"""The forward of what reads a whole text at once: every token sees all of them."""

from dataclasses import dataclass

import torch

from nimlite.kernels.base import Batch, Kernels, KVLayout
from nimlite.layers.attention import Attention
from nimlite.layers.block import Block, load_block, norms_of
from nimlite.layers.embedding import Embedding
from nimlite.layers.linear import Weights
from nimlite.layers.norm import Norm
from nimlite.layers.shard import WHOLE, Shard
from nimlite.models.spec import ENCODER, ModelSpec


@dataclass(frozen=True, slots=True)
class Encoder:
    """Embedding, blocks, final norm. Positions are learned or relative: none turn."""

    spec: ModelSpec
    embedding: Embedding
    first_norm: Norm
    blocks: tuple[Block, ...]
    """Each holds the norm behind it."""

    @classmethod
    def load(
        cls, spec: ModelSpec, weights: Weights, layout: KVLayout, shard: Shard = WHOLE
    ) -> "Encoder":
        """Assemble the layers from one rank's engine tensors; nothing is copied."""
        assert not spec.causal and spec.rope is None
        first_norm, *next_norms = norms_of(spec, weights, shard, None)
        attentions = [
            Attention.load(spec, weights, i, layout, None, shard) for i in range(spec.num_layers)
        ]
        layers = enumerate(zip(attentions, next_norms, strict=True))
        blocks = (load_block(spec, weights, i, shard, *layer) for i, layer in layers)
        return cls(spec, Embedding.load(spec, weights, shard), first_norm, tuple(blocks))

    def __call__(self, batch: Batch, kv: torch.Tensor, kernels: Kernels) -> torch.Tensor:
        """x_TD of every token of texts that are whole in this step. `kv`: one layer's part of the
        pool, to whose slots each layer writes the keys and values of these tokens."""
        residual_TD = self.embedding(batch, kernels)
        x_TD = self.first_norm(residual_TD, kernels)
        for block in self.blocks:
            x_TD, residual_TD = block(x_TD, residual_TD, kv, batch, kernels)
        return x_TD


def encoder_part(weights: Weights) -> Weights:
    """The tensors of the encoder among those of an encoder-decoder, by the names they have in an
    encoder; the embedding is the decoder's."""
    names = {name.removeprefix(ENCODER): name for name in weights if name.startswith(ENCODER)}
    return {own: weights[name] for own, name in (names | {"embedding": "embedding"}).items()}
