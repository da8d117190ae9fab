"""A decoder whose segments something else computes, and nimlite's kernels what stands between them.

T, D, E, H, K: as in segment.py   R rows whose logits are wanted   V vocabulary
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from nimlite.kernels.base import Batch, Kernels, KVLayout
from nimlite.layers.decoder import Block, Decoder
from nimlite.layers.linear import Linear
from nimlite.models.spec import ModelSpec
from nimlite.quant.base import PackedWeight
from nimlite.tensorrt.segment import Kind

Tensors = Mapping[str, torch.Tensor]
RunSegment = Callable[[Tensors], Tensors]
"""A segment's outputs of its inputs, by the names of its ports. They are valid until its next
call."""
Bind = Callable[[PackedWeight], Tensors]
"""A weight as segments take it: "" its values, ".scales" and so on what belongs to them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentedDecoder:
    """`decoder`, computed by segments."""

    decoder: Decoder
    run: Mapping[Kind, RunSegment]
    weights: tuple[Tensors, ...]
    """Of each segment in turn: L + 1."""

    @classmethod
    def of(cls, decoder: Decoder, run: Mapping[Kind, RunSegment], bind: Bind) -> "SegmentedDecoder":
        """Nothing is copied, unless `bind` does."""
        blocks = decoder.blocks
        weights = [_to_attention(blocks[0], bind)]
        for block, following in itertools.pairwise(blocks):
            weights.append(_from_attention(block, bind) | _to_attention(following, bind))
        last = {"final_norm": decoder.final_norm_D}
        weights.append(_from_attention(blocks[-1], bind) | last)
        return cls(decoder=decoder, run=run, weights=tuple(weights))

    @property
    def spec(self) -> ModelSpec:
        return self.decoder.spec

    @property
    def layout(self) -> KVLayout:
        return self.decoder.layout

    def __call__(self, batch: Batch, kv: torch.Tensor, kernels: Kernels) -> torch.Tensor:
        """As `Decoder` does."""
        decoder = self.decoder
        residual_TD = kernels.embed(decoder.embedding, batch.token_ids_T)
        given = {"residual": residual_TD}
        for layer, (block, weights) in enumerate(
            zip(decoder.blocks, self.weights[:-1], strict=True)
        ):
            found = self.run["middle" if layer else "first"]({**given, **weights})
            residual_TD = found.get("residual_out", residual_TD)
            qkv_TE, attention = found["qkv_out"], block.attention
            kernels.rope_and_cache(qkv_TE, attention.cos_sin_PK, kv[layer], batch, self.layout)
            is_last = layer == len(decoder.blocks) - 1
            if is_last and not len(batch.logit_rows_R):  # a prompt's chunk before its last
                return residual_TD.new_empty((0, self.spec.vocab_size))
            scale = self.layout.head_dim**-0.5
            o_TQ = kernels.attention(
                qkv_TE, kv[layer], batch, self.layout, attention.num_heads, scale
            )
            if is_last:
                o_TQ = kernels.take_rows(o_TQ, batch.logit_rows_R)
                residual_TD = kernels.take_rows(residual_TD, batch.logit_rows_R)
            given = {"attended": o_TQ, "residual": residual_TD}
        x_RD = self.run["last"]({**given, **self.weights[-1]})["normed"]
        return kernels.head(x_RD, decoder.head.weight, decoder.head.bias_N)


def _to_attention(block: Block, bind: Bind) -> dict[str, torch.Tensor]:
    return {"input_norm": block.input_norm_D, **_ports("qkv", block.attention.qkv, bind)}


def _from_attention(block: Block, bind: Bind) -> dict[str, torch.Tensor]:
    return {
        **_ports("output", block.attention.output, bind),
        "post_norm": block.post_norm_D,
        **_ports("gate_up", block.mlp.gate_up, bind),
        **_ports("down", block.mlp.down, bind),
    }


def _ports(name: str, linear: Linear, bind: Bind) -> dict[str, torch.Tensor]:
    ports = {f"{name}{part}": tensor for part, tensor in bind(linear.weight).items()}
    if linear.bias_N is not None:
        ports[f"{name}.bias"] = linear.bias_N
    return ports
