"""A decoder whose segments something else computes, and nimlite's kernels what stands between them.

T, D, E, H, K: as in segment.py   R rows whose logits are wanted   V vocabulary
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from nimlite.kernels.base import Batch, Kernels, KVLayout
from nimlite.layers.block import Block, SequentialBlock
from nimlite.layers.decoder import Decoder
from nimlite.layers.linear import Linear
from nimlite.layers.mlp import GatedMLP
from nimlite.layers.norm import Norm, RMSNorm
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
        blocks = [_sequential(block) for block in decoder.blocks]
        weights = [_to_attention(decoder.first_norm, blocks[0], bind)]
        for block, following in itertools.pairwise(blocks):
            to_attention = _to_attention(block.next_norm, following, bind)
            weights.append(_from_attention(block, bind) | to_attention)
        last = {"final_norm": _weight_of(blocks[-1].next_norm)}
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
        residual_TD = decoder.embedding(batch, kernels)
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
            o_TQ = kernels.attention(
                qkv_TE, kv[layer], batch, self.layout, attention.num_heads, attention.scores
            )
            if is_last:
                o_TQ = kernels.take_rows(o_TQ, batch.logit_rows_R)
                residual_TD = kernels.take_rows(residual_TD, batch.logit_rows_R)
            given = {"attended": o_TQ, "residual": residual_TD}
        x_RD = self.run["last"]({**given, **self.weights[-1]})["normed"]
        return decoder.head(x_RD, kernels)


def _sequential(block: Block) -> SequentialBlock:
    assert isinstance(block, SequentialBlock), "segments know no other kind"
    return block


def _weight_of(norm: Norm) -> torch.Tensor:
    assert isinstance(norm, RMSNorm), "segments know no other kind"
    return norm.weight_D


def _to_attention(norm: Norm, block: SequentialBlock, bind: Bind) -> dict[str, torch.Tensor]:
    return {"input_norm": _weight_of(norm), **_ports("qkv", block.attention.qkv, bind)}


def _from_attention(block: SequentialBlock, bind: Bind) -> dict[str, torch.Tensor]:
    assert isinstance(block.mlp, GatedMLP), "segments know no other kind"
    return {
        **_ports("output", block.attention.output, bind),
        "post_norm": _weight_of(block.post_norm),
        **_ports("gate_up", block.mlp.gate_up, bind),
        **_ports("down", block.mlp.down, bind),
    }


def _ports(name: str, linear: Linear, bind: Bind) -> dict[str, torch.Tensor]:
    ports = {f"{name}{part}": tensor for part, tensor in bind(linear.weight).items()}
    if linear.bias_N is not None:
        ports[f"{name}.bias"] = linear.bias_N
    return ports
