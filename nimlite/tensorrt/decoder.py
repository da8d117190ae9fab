"""A decoder whose segments something else computes, and nimlite's kernels what stands between them.

T, D, E, H, K: as in segment.py   R rows whose logits are wanted   V vocabulary
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from nimlite.kernels.base import Batch, Kernels, KVLayout
from nimlite.layers.decoder import Decoder
from nimlite.layers.linear import Weights
from nimlite.models.spec import ModelSpec
from nimlite.quant.base import PackedWeight
from nimlite.tensorrt.segment import Kind, Segment

Tensors = Mapping[str, torch.Tensor]
RunSegment = Callable[[Tensors], Tensors]
"""A segment's outputs of its inputs, by the names of its ports."""
Bind = Callable[[PackedWeight], Tensors]
"""A weight as segments take it: "" its values, ".scales" and so on what belongs to them."""
_TO_ATTENTION = ("input_norm", "qkv")


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentedDecoder:
    """`decoder`, computed by segments."""

    decoder: Decoder
    run: Mapping[Kind, RunSegment]
    weights: tuple[Tensors, ...]
    """Of each segment in turn: L + 1."""

    @property
    def spec(self) -> ModelSpec:
        return self.decoder.spec

    @property
    def layout(self) -> KVLayout:
        return self.decoder.layout

    @property
    def num_layers(self) -> int:
        return self.decoder.num_layers

    def encode(self, batch: Batch, kv: torch.Tensor, kernels: Kernels) -> torch.Tensor:
        """As `Decoder` does."""
        return self.decoder.encode(batch, kv, kernels)

    def __call__(self, batch: Batch, kv: torch.Tensor, kernels: Kernels) -> torch.Tensor:
        """As `Decoder` does."""
        decoder = self.decoder
        assert decoder.head is not None, "plans are of whole models"
        residual_TD = decoder.embedding(batch, kernels)
        given = {"residual": residual_TD}
        for layer, (block, weights) in enumerate(
            zip(decoder.blocks, self.weights[:-1], strict=True)
        ):
            found = self.run["middle" if layer else "first"]({**given, **weights})
            residual_TD = found.get("residual_out", residual_TD)
            qkv_TE, attention = found["qkv_out"], block.attention
            attention.place(qkv_TE, kv[layer], batch, kernels)
            rows_R = batch.logit_rows_R if layer == len(decoder.blocks) - 1 else None
            if rows_R is not None:
                if not len(rows_R):  # a prompt's chunk before its last
                    return residual_TD.new_empty((0, self.spec.vocab_size))
                residual_TD = kernels.take_rows(residual_TD, rows_R)
            o_TQ = attention.attend(qkv_TE, kv[layer], batch, kernels, rows_R)
            given = {"attended": o_TQ, "residual": residual_TD}
        x_RD = self.run["last"]({**given, **self.weights[-1]})["normed"]
        return decoder.head(x_RD, kernels)

    def hidden(self, batch: Batch, kv: torch.Tensor, kernels: Kernels) -> torch.Tensor:
        """As `Decoder` does, and by its kernels: the plans have no place for it."""
        return self.decoder.hidden(batch, kv, kernels)

    def logits(self, x_TD: torch.Tensor, rows_R: torch.Tensor, kernels: Kernels) -> torch.Tensor:
        """As `Decoder` does."""
        return self.decoder.logits(x_TD, rows_R, kernels)


def segment_weights(
    segments: Mapping[Kind, Segment], weights: Weights, bind: Bind
) -> tuple[Tensors, ...]:
    """Of a model's engine tensors, those of each of its L + 1 segments in turn, by port. Nothing is
    copied, unless `bind` does."""
    middles: list[Kind] = ["middle"] * (segments["first"].spec.num_layers - 1)
    kinds: list[Kind] = ["first", *middles, "last"]
    return tuple(_bound(segments[kind], i, weights, bind) for i, kind in enumerate(kinds))


def _bound(segment: Segment, index: int, weights: Weights, bind: Bind) -> Tensors:
    found: dict[str, torch.Tensor] = {}
    for base in {port.name.partition(".")[0] for port in segment.weight_ports}:
        name = _engine_name(segment.spec, base, index)
        weight = weights[name]
        if isinstance(weight, PackedWeight):
            found |= {f"{base}{part}": tensor for part, tensor in bind(weight).items()}
        else:
            found[base] = weight
        bias = weights.get(f"{name}.bias")
        if isinstance(bias, torch.Tensor):
            found[f"{base}.bias"] = bias
    return found


def _engine_name(spec: ModelSpec, base: str, index: int) -> str:
    """Of a port's weights in segment `index`, which begins behind the attention of the layer
    before."""
    if base == "final_norm":
        return base
    if base == "post_norm" and spec.block == "parallel_shared":
        return f"layers.{index - 1}.input_norm"
    return f"layers.{index if base in _TO_ATTENTION else index - 1}.{base}"
