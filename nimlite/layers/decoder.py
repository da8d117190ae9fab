"""The one forward that every decoder-only family shares, read off its spec."""

from dataclasses import dataclass

import torch

from nimlite.kernels.base import Batch, Kernels, KVLayout
from nimlite.layers.attention import Attention
from nimlite.layers.linear import Linear, Weights, dense, packed
from nimlite.layers.mlp import GatedMLP
from nimlite.layers.rotary import cos_sin_table
from nimlite.layers.shard import WHOLE, Shard
from nimlite.models.spec import ModelSpec
from nimlite.quant.base import PackedWeight


@dataclass(frozen=True, slots=True)
class Block:
    """Attention and MLP, each behind a norm and added to the residual stream."""

    input_norm_D: torch.Tensor
    attention: Attention
    post_norm_D: torch.Tensor
    mlp: GatedMLP


@dataclass(frozen=True, slots=True)
class Decoder:
    """Embedding, blocks, final norm, head."""

    spec: ModelSpec
    layout: KVLayout
    embedding: PackedWeight
    blocks: tuple[Block, ...]
    final_norm_D: torch.Tensor
    head: Linear

    @classmethod
    def load(
        cls, spec: ModelSpec, weights: Weights, layout: KVLayout, shard: Shard = WHOLE
    ) -> "Decoder":
        """Assemble the layers from one rank's engine tensors; nothing is copied."""
        final_norm_D = dense(weights, "final_norm")
        cos_sin_PK = cos_sin_table(spec.rope, spec.head_dim, spec.max_positions)
        cos_sin_PK = cos_sin_PK.to(final_norm_D.device)
        blocks = tuple(
            Block(
                input_norm_D=dense(weights, f"layers.{i}.input_norm"),
                attention=Attention(
                    qkv=Linear.load(weights, f"layers.{i}.qkv"),
                    output=Linear.load(weights, f"layers.{i}.output"),
                    num_heads=shard.share(spec.num_heads),
                    cos_sin_PK=cos_sin_PK,
                    layout=layout,
                ),
                post_norm_D=dense(weights, f"layers.{i}.post_norm"),
                mlp=GatedMLP(
                    gate_up=Linear.load(weights, f"layers.{i}.gate_up"),
                    down=Linear.load(weights, f"layers.{i}.down"),
                    activation=spec.activation,
                ),
            )
            for i in range(spec.num_layers)
        )
        embedding = packed(weights, "embedding")
        head = Linear(embedding, None) if spec.tie_embeddings else Linear.load(weights, "head")
        return cls(spec, layout, embedding, blocks, final_norm_D, head)

    def __call__(self, batch: Batch, kv: torch.Tensor, kernels: Kernels) -> torch.Tensor:
        """Logits_RV of the batch's `logit_rows`, with the keys and values of its tokens written to
        `kv`, the whole pool."""
        eps = self.spec.norm_eps
        residual_TD = kernels.embed(self.embedding, batch.token_ids_T)
        first = self.blocks[0]
        x_TD = kernels.rms_norm(residual_TD, first.input_norm_D, eps, first.attention.qkv.weight)
        nexts = [(block.input_norm_D, block.attention.qkv) for block in self.blocks[1:]]
        nexts.append((self.final_norm_D, self.head))
        for layer, (block, (norm_D, consumer)) in enumerate(zip(self.blocks, nexts, strict=True)):
            gate_up = block.mlp.gate_up.weight
            if layer < len(self.blocks) - 1:
                x_TD = block.attention(x_TD, kv[layer], batch, kernels)
            elif not len(batch.logit_rows_R):  # a prompt's chunk before its last
                block.attention.project(x_TD, kv[layer], batch, kernels)
                return residual_TD.new_empty((0, self.spec.vocab_size))
            else:
                # Nothing reads the last block's other rows: a prompt's cost only their attention.
                x_TD = block.attention(x_TD, kv[layer], batch, kernels, batch.logit_rows_R)
                residual_TD = kernels.take_rows(residual_TD, batch.logit_rows_R)
            x_TD = kernels.add_rms_norm(x_TD, residual_TD, block.post_norm_D, eps, gate_up)
            x_TD = block.mlp(x_TD, kernels)
            x_TD = kernels.add_rms_norm(x_TD, residual_TD, norm_D, eps, consumer.weight)
        return kernels.head(x_TD, self.head.weight, self.head.bias_N)
