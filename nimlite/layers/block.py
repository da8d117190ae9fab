"""One layer of a decoder: attention and MLP around the residual stream.

A block takes the stream and its norm, and gives both to the next one: the last addition and the
norm after it are one kernel.
"""

from dataclasses import dataclass
from typing import Protocol

import torch

from nimlite.kernels.base import Batch, Kernels
from nimlite.layers.attention import Attention
from nimlite.layers.cross_attention import CrossAttention
from nimlite.layers.embedding import Head
from nimlite.layers.linear import Weights, packed
from nimlite.layers.mlp import MLP, load_mlp
from nimlite.layers.moe import load_moe
from nimlite.layers.norm import NoNorm, Norm, load_norm
from nimlite.layers.shard import Shard
from nimlite.models.spec import ModelSpec
from nimlite.quant.base import PackedWeight


class Block(Protocol):
    """What the decoder asks of a layer."""

    @property
    def attention(self) -> Attention: ...

    def __call__(
        self,
        x_TD: torch.Tensor,
        residual_TD: torch.Tensor,
        kv: torch.Tensor,
        batch: Batch,
        kernels: Kernels,
        rows_R: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The input and the residual of the next layer, of the rows `rows_R` alone where they are
        given. `x_TD`: the norm of the residual, which is changed in place. `kv`: this layer's part
        of the pool."""


@dataclass(frozen=True, slots=True)
class SequentialBlock:
    """x += attention(norm(x)); x += mlp(norm(x)); between them x += cross(norm(x)), where there is
    an encoder."""

    attention: Attention
    cross: CrossAttention | None
    post_norm: Norm
    mlp: MLP
    next_norm: Norm

    def __call__(
        self,
        x_TD: torch.Tensor,
        residual_TD: torch.Tensor,
        kv: torch.Tensor,
        batch: Batch,
        kernels: Kernels,
        rows_R: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.cross is None:
            x_TD = self.attention(x_TD, kv, batch, kernels, rows_R, added=True)
        else:  # whose queries are told apart by the sequences, and so are all of them
            x_TD = self.attention(x_TD, kv, batch, kernels, added=True)
            x_TD = self.cross.norm.add(x_TD, residual_TD, kernels)
            x_TD = self.cross(x_TD, kv, batch, kernels, rows_R, added=True)
        if rows_R is not None:
            residual_TD = kernels.take_rows(residual_TD, rows_R)
        x_TD = self.post_norm.add(x_TD, residual_TD, kernels)
        x_TD = self.mlp(x_TD, kernels, added=True)
        return self.next_norm.add(x_TD, residual_TD, kernels), residual_TD


@dataclass(frozen=True, slots=True)
class PostBlock:
    """x = norm(x + attention(x)); x = norm(x + mlp(x)) (Vaswani et al., 2017, arXiv:1706.03762);
    between them x = norm(x + cross(x)), where there is an encoder.

    What comes in is the stream itself: a residual beside it would be the same.
    """

    attention: Attention
    attention_out_norm: Norm
    cross: CrossAttention | None
    mlp: MLP
    mlp_out_norm: Norm

    def __call__(
        self,
        x_TD: torch.Tensor,
        residual_TD: torch.Tensor,
        kv: torch.Tensor,
        batch: Batch,
        kernels: Kernels,
        rows_R: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        own_R = rows_R if self.cross is None else None
        y_TD = self.attention(x_TD, kv, batch, kernels, own_R, added=True)
        residual_TD = _stream(x_TD, kernels, own_R)
        x_TD = self.attention_out_norm.add(y_TD, residual_TD, kernels)
        if self.cross is not None:
            y_TD = self.cross(x_TD, kv, batch, kernels, rows_R, added=True)
            residual_TD = _stream(x_TD, kernels, rows_R)
            x_TD = self.cross.norm.add(y_TD, residual_TD, kernels)
        y_TD = self.mlp(x_TD, kernels, added=True)
        residual_TD = kernels.widen(x_TD)
        return self.mlp_out_norm.add(y_TD, residual_TD, kernels), residual_TD


def _stream(x_TD: torch.Tensor, kernels: Kernels, rows_R: torch.Tensor | None) -> torch.Tensor:
    return kernels.widen(x_TD if rows_R is None else kernels.take_rows(x_TD, rows_R))


@dataclass(frozen=True, slots=True)
class SandwichBlock:
    """The same, with a norm on what is added (Gemma 2, arXiv:2408.00118)."""

    attention: Attention
    attention_out_norm: Norm
    post_norm: Norm
    mlp: MLP
    mlp_out_norm: Norm
    next_norm: Norm

    def __call__(
        self,
        x_TD: torch.Tensor,
        residual_TD: torch.Tensor,
        kv: torch.Tensor,
        batch: Batch,
        kernels: Kernels,
        rows_R: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        x_TD = self.attention(x_TD, kv, batch, kernels, rows_R, added=False)
        if rows_R is not None:
            residual_TD = kernels.take_rows(residual_TD, rows_R)
        x_TD = self.attention_out_norm(x_TD, kernels)
        x_TD = self.post_norm.add(x_TD, residual_TD, kernels)
        x_TD = self.mlp_out_norm(self.mlp(x_TD, kernels, added=False), kernels)
        return self.next_norm.add(x_TD, residual_TD, kernels), residual_TD


@dataclass(frozen=True, slots=True)
class ParallelBlock:
    """x += attention(norm(x)) + mlp(norm(x)), with a norm for both (GPT-J) or one each (GPT-NeoX,
    arXiv:2204.06745)."""

    attention: Attention
    mlp_norm: Norm
    shares_norm: bool
    """`mlp_norm` is what the attention's input has passed."""
    mlp: MLP
    next_norm: Norm

    def __call__(
        self,
        x_TD: torch.Tensor,
        residual_TD: torch.Tensor,
        kv: torch.Tensor,
        batch: Batch,
        kernels: Kernels,
        rows_R: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        o_TD = self.attention(x_TD, kv, batch, kernels, rows_R, added=False)
        if rows_R is not None:
            residual_TD = kernels.take_rows(residual_TD, rows_R)
        if rows_R is not None or not self.shares_norm:
            x_TD = self.mlp_norm(residual_TD, kernels)
        kernels.add(residual_TD, o_TD)
        x_TD = self.mlp(x_TD, kernels, added=True)
        return self.next_norm.add(x_TD, residual_TD, kernels), residual_TD


def load_block(
    spec: ModelSpec,
    weights: Weights,
    layer: int,
    shard: Shard,
    attention: Attention,
    next_norm: Norm,
    cross: CrossAttention | None = None,
) -> Block:
    """The layer of the model's kind."""
    mlp = _load_mlp(spec, weights, layer, shard)

    def norm(kind: str, consumer: PackedWeight | None = None) -> Norm:
        return load_norm(spec, weights, f"layers.{layer}.{kind}", consumer)

    match spec.block:
        case "sequential":
            return SequentialBlock(attention, cross, norm("post_norm", mlp.first), mlp, next_norm)
        case "sandwich":
            return SandwichBlock(
                attention=attention,
                attention_out_norm=norm("attention_out_norm"),
                post_norm=norm("post_norm", mlp.first),
                mlp=mlp,
                mlp_out_norm=norm("mlp_out_norm"),
                next_norm=next_norm,
            )
        case "parallel":
            return ParallelBlock(attention, norm("post_norm", mlp.first), False, mlp, next_norm)
        case "parallel_shared":
            return ParallelBlock(
                attention, input_norm(spec, weights, layer, shard), True, mlp, next_norm
            )
        case "post":
            out_norm = norm("attention_out_norm")
            return PostBlock(attention, out_norm, cross, mlp, next_norm)


def _load_mlp(spec: ModelSpec, weights: Weights, layer: int, shard: Shard) -> MLP:
    if spec.moe is not None and spec.is_sparse(layer):
        return load_moe(spec, spec.moe, weights, layer, shard)
    return load_mlp(spec, weights, layer, shard)


def norms_of(spec: ModelSpec, weights: Weights, shard: Shard, head: Head | None) -> list[Norm]:
    """What is applied before the rank's first layer, and behind each: the norm in front of the next
    one, or, in a post block, its last. `head`: what the result goes to; None: nowhere, or to
    several."""
    layers = shard.layers(spec.num_layers)
    if spec.block == "post":
        assert spec.embedding_norm and shard.stages == 1, "what comes into a post block is normed"
        names = ["embedding_norm", *(f"layers.{i}.mlp_out_norm" for i in layers)]
        # the residual is these results, too, and so they are not rounded for what follows
        return [load_norm(spec, weights, name) for name in names]
    norms: list[Norm] = [input_norm(spec, weights, i, shard) for i in layers]
    consumer = head.linear.weight if head else None
    last = load_norm(spec, weights, "final_norm", consumer) if shard.is_last else NoNorm()
    return [*norms, last]


def input_norm(spec: ModelSpec, weights: Weights, layer: int, shard: Shard) -> Norm:
    """The norm in front of a layer, which whoever comes before it applies."""
    consumer: PackedWeight | None = packed(weights, f"layers.{layer}.qkv")
    if spec.block == "parallel_shared":
        first = _load_mlp(spec, weights, layer, shard).first
        same = first is not None and consumer is not None and first.scheme == consumer.scheme
        consumer = consumer if same else None
    return load_norm(spec, weights, f"layers.{layer}.input_norm", consumer)
