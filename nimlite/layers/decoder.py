"""The one forward that every decoder shares, composed from its spec."""

from dataclasses import dataclass

import torch

from nimlite.kernels.base import Batch, Kernels, KVLayout
from nimlite.layers.attention import Attention
from nimlite.layers.block import Block, load_block, norms_of
from nimlite.layers.cross_attention import CrossAttention
from nimlite.layers.embedding import Embedding, Handover, Head
from nimlite.layers.encoder import Encoder, encoder_part
from nimlite.layers.linear import Weights, device_of
from nimlite.layers.norm import Norm
from nimlite.layers.rotary import layer_tables
from nimlite.layers.shard import WHOLE, Shard
from nimlite.models.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Decoder:
    """Embedding, blocks, final norm, head, of an encoder alone, too; or what a rank has of them."""

    spec: ModelSpec
    layout: KVLayout
    embedding: Embedding | Handover
    first_norm: Norm
    blocks: tuple[Block, ...]
    """Each holds the norm in front of the next one; the last, the final norm."""
    head: Head | None
    """None: another stage goes on."""
    encoder: Encoder | None
    crosses: tuple[CrossAttention, ...]
    """By layer, where there is an encoder."""

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
        head = Head.load(spec, weights, shard) if shard.is_last else None
        layers = shard.layers(spec.num_layers)
        norms = norms_of(spec, weights, shard, head)
        tables = layer_tables(spec, max_model_len, device_of(weights))
        encoder, crosses = None, tuple[CrossAttention, ...]()
        if spec.encoder is not None:
            assert shard.stages == 1, "an encoder is not cut into stages"
            encoder = Encoder.load(spec.encoder, encoder_part(weights), layout, shard)
            crosses = tuple(CrossAttention.load(spec, weights, i, layout, shard) for i in layers)
        return cls(
            spec=spec,
            layout=layout,
            embedding=(
                Embedding.load(spec, weights, shard)
                if shard.is_first
                else Handover(spec.hidden_size)
            ),
            first_norm=norms[0],
            blocks=tuple(
                load_block(
                    spec,
                    weights,
                    layer,
                    shard,
                    Attention.load(spec, weights, layer, layout, tables[layer], shard),
                    next_norm,
                    crosses[layer] if crosses else None,
                )
                for layer, next_norm in zip(layers, norms[1:], strict=True)
            ),
            head=head,
            encoder=encoder,
            crosses=crosses,
        )

    @property
    def num_layers(self) -> int:
        return len(self.blocks) if self.spec.causal else 1

    def encode(self, batch: Batch, kv: torch.Tensor, kernels: Kernels) -> torch.Tensor:
        """Let the encoder read the texts of `batch`, and write what each layer of the decoder keeps
        of them to their slots in `kv`, the whole pool. Gives the encoder's output x_TD."""
        assert self.encoder is not None
        x_TD = self.encoder(batch, kv[0], kernels)
        for cross, kv_of_layer in zip(self.crosses, kv, strict=True):
            cross.remember(x_TD, kv_of_layer, batch, kernels)
        return x_TD

    def __call__(self, batch: Batch, kv: torch.Tensor, kernels: Kernels) -> torch.Tensor:
        """Logits_RV of the batch's `logit_rows`, with the keys and values of its tokens written to
        `kv`, the whole pool."""
        if not self.spec.causal:
            return self.logits(self.hidden(batch, kv, kernels), batch.logit_rows_R, kernels)
        residual_TD = self.embedding(batch, kernels)
        x_TD = self.first_norm(residual_TD, kernels)
        *inner, last = self.blocks
        for layer, block in enumerate(inner):
            x_TD, residual_TD = block(x_TD, residual_TD, kv[layer], batch, kernels)
        kv_of_last, rows_R = kv[len(inner)], batch.logit_rows_R
        if self.head is None:
            _, residual_TD = last(x_TD, residual_TD, kv_of_last, batch, kernels)
            kernels.send_on(residual_TD)
            return residual_TD.new_empty((len(rows_R), 0))
        if not len(rows_R):  # a prompt's chunk before its last
            last.attention.project(x_TD, kv_of_last, batch, kernels)
            return residual_TD.new_empty((0, self.spec.vocab_size))
        # Nothing reads the last block's other rows: a prompt's cost only their attention.
        x_RD, _ = last(x_TD, residual_TD, kv_of_last, batch, kernels, rows_R)
        return self.head(x_RD, kernels)

    def hidden(self, batch: Batch, kv: torch.Tensor, kernels: Kernels) -> torch.Tensor:
        """The final hidden states x_TD of all tokens, behind the last norm; else as above."""
        residual_TD = self.embedding(batch, kernels)
        x_TD = self.first_norm(residual_TD, kernels)
        for layer, block in enumerate(self.blocks):
            own = layer if self.spec.causal else 0
            x_TD, residual_TD = block(x_TD, residual_TD, kv[own], batch, kernels)
        if self.head is None:
            kernels.send_on(residual_TD)
        return x_TD

    def logits(self, x_TD: torch.Tensor, rows_R: torch.Tensor, kernels: Kernels) -> torch.Tensor:
        """logits_RV of these rows of the final hidden states."""
        if self.head is None or not len(rows_R):
            return x_TD.new_empty((len(rows_R), self.spec.vocab_size))
        return self.head(kernels.take_rows(x_TD, rows_R), kernels)
