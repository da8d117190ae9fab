"""What the layers ask of a device: a decoder's operations over packed tokens and a paged KV pool.

Shapes, here and in every kernel:
    T tokens of the step (all packed)    D hidden size       E fused QKV width (H + 2G heads)
    S sequences in the step              H query heads       G key/value heads
    R rows whose logits are wanted       K head dimension    I MLP inner size
    B blocks in a sequence's table       N, C output and input features of a linear
Implementations: `torch_kernels.py` (plain torch, right everywhere), `cpu/` (C++), `triton/` (GPUs).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from nimlite.quant.base import PackedWeight


@dataclass(frozen=True, slots=True)
class Batch:
    """One step as flat tensors (int32). Under a recorded graph they are static buffers, used up to
    the counts."""

    token_ids_T: torch.Tensor
    positions_T: torch.Tensor
    slots_T: torch.Tensor
    """Where each token's key and value go: block id * block size + offset."""
    query_starts_S1: torch.Tensor
    """Cumulative: sequence s owns tokens query_starts[s] … query_starts[s + 1]."""
    context_lens_S: torch.Tensor
    """Tokens of the sequence in the KV pool once this step's are written."""
    block_tables_SB: torch.Tensor
    logit_rows_R: torch.Tensor
    """Indices into T."""
    cross_lens_S: torch.Tensor | None = None
    """Tokens of what the encoder has read for the sequence; None: there is no encoder."""
    cross_tables_SB: torch.Tensor | None = None
    """The blocks of their keys and values."""

    @property
    def cross(self) -> "Batch":
        """The same queries over the encoder's keys and values."""
        assert self.cross_lens_S is not None and self.cross_tables_SB is not None
        tables = {"context_lens_S": self.cross_lens_S, "block_tables_SB": self.cross_tables_SB}
        return replace(self, **tables)


@dataclass(frozen=True, slots=True)
class Counts:
    """How much of the static buffers one step uses."""

    num_tokens: int
    num_sequences: int
    num_rows: int


Forward = Callable[[Batch], torch.Tensor]
"""A model bound to its weights and its KV pool: logits of the batch's rows."""
Step = Callable[[Counts], torch.Tensor]
"""Runs the captured forward on the static buffers: logits_RV, valid until the next call."""


@dataclass(frozen=True, slots=True)
class KVLayout:
    """The shape of one layer's part of the pool."""

    num_blocks: int
    block_size: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype


class Ranks(Protocol):
    """The others that hold parts of the model (parallel/), in the words of the tensors themselves.
    Each of them makes the same calls in the same order."""

    def sum(self, x: torch.Tensor) -> None:
        """x of all ranks that share the layer, added up in place."""

    def gather(self, x_RN: torch.Tensor, y_RV: torch.Tensor, sizes: Sequence[int]) -> None:
        """The columns of those ranks, `sizes` of each, side by side in y of the first one."""

    def send(self, x: torch.Tensor) -> None:
        """To the rank with the same share of the next stage."""

    def receive(self, x: torch.Tensor) -> None:
        """From the one of the stage before."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scores:
    """What becomes of the products of queries and keys before their softmax."""

    scale: float
    window: int = 0
    """Tokens that a query sees, itself included; 0: all before it."""
    soft_cap: float = 0.0
    """scores -> cap * tanh(scores / cap), after the scale; 0: not."""
    slopes_H: torch.Tensor | None = None
    """fp32: what each token between query and key takes off a score, by query head."""
    bias_HP: torch.Tensor | None = None
    """fp32 [H, 2 * reach + 1]: what is added to a score, by query head; column reach + d where the
    key stands d tokens before the query, and the first or the last one beyond the reach."""
    causal: bool = True
    """False: a query sees all of the context, and must not be cut off by a window."""


@dataclass(frozen=True, slots=True, eq=False)
class Experts:
    """The MLPs of a layer, as one matrix each for gate and up, and for down."""

    up: PackedWeight
    """[E * 2 I, D]: each expert's gate, then its up."""
    down: PackedWeight
    """[E * D, I]"""
    num_experts: int
    per_token: int
    normalize: bool
    """The probabilities of those that a token has are made to sum up to 1."""
    activation: str


class Kernels(Protocol):
    """The operations. Activations are fp32 on the CPU; on a GPU they have the profile's dtype.

    `consumer` is the weight that a result is multiplied with next: where that takes rounded
    activations, the result may be rounded already, and only `linear` can read it.
    """

    def allocate_kv(self, num_layers: int, layout: KVLayout) -> torch.Tensor:
        """The whole pool, [layers, 2, blocks, G, …]: strides and inner layout belong to the
        implementation. Index [l, 0] holds keys, [l, 1] values; [:, :, b] is all of block b."""

    def capture(self, forward: Forward, batch: Batch, *, decodes: bool = True) -> Step:
        """Prepare `forward` to run again and again over the static buffers of `batch`, with the
        least overhead that the device allows: recorded once and replayed where it can be. The
        weights and the pool must outlive the step. `decodes`: most steps have one token a
        sequence."""

    def embed(
        self, weight: PackedWeight, token_ids_T: torch.Tensor, scale: float = 1.0, first: int = 0
    ) -> torch.Tensor:
        """Rows of the embedding, which begins with token `first`, times `scale`: x_TD, the
        beginning of a residual stream. Zero for tokens that it does not have."""

    def add_positions(
        self, x_TD: torch.Tensor, table_PD: torch.Tensor, positions_T: torch.Tensor
    ) -> None:
        """x += table[positions], in place."""

    def widen(self, x_TD: torch.Tensor) -> torch.Tensor:
        """As a residual stream is held."""

    def rms_norm(
        self,
        x_TD: torch.Tensor,
        weight_D: torch.Tensor,
        eps: float,
        consumer: PackedWeight | None = None,
    ) -> torch.Tensor:
        """x / rms(x) * weight."""

    def add_rms_norm(
        self,
        x_TD: torch.Tensor,
        residual_TD: torch.Tensor,
        weight_D: torch.Tensor,
        eps: float,
        consumer: PackedWeight | None = None,
    ) -> torch.Tensor:
        """residual += x in place, then its norm."""

    def layer_norm(
        self,
        x_TD: torch.Tensor,
        weight_D: torch.Tensor,
        bias_D: torch.Tensor | None,
        eps: float,
        consumer: PackedWeight | None = None,
    ) -> torch.Tensor:
        """(x - mean) / sqrt(variance + eps) * weight + bias."""

    def add_layer_norm(
        self,
        x_TD: torch.Tensor,
        residual_TD: torch.Tensor,
        weight_D: torch.Tensor,
        bias_D: torch.Tensor | None,
        eps: float,
        consumer: PackedWeight | None = None,
    ) -> torch.Tensor:
        """residual += x in place, then its norm."""

    def add(self, residual_TD: torch.Tensor, x_TD: torch.Tensor) -> None:
        """residual += x, in place."""

    def linear(
        self,
        x_TC: torch.Tensor,
        weight: PackedWeight,
        bias_N: torch.Tensor | None,
        added: bool = False,
    ) -> torch.Tensor:
        """x @ weight.T + bias: y_TN. `added`: it goes to `add_rms_norm` or `add_layer_norm` and
        nowhere else, which may be left to finish it."""

    def head(
        self, x_RD: torch.Tensor, weight: PackedWeight, bias_N: torch.Tensor | None
    ) -> torch.Tensor:
        """The same for logits, which stay in fp32 on every device: in 16 bits those of about 20
        would be steps of 0.125, and many a choice a tie."""

    def soft_cap(self, logits_RV: torch.Tensor, cap: float) -> None:
        """cap * tanh(logits / cap), in place."""

    def clip(self, qkv_TE: torch.Tensor, limit: float) -> None:
        """Cut off at ± limit, in place."""

    def norm_heads(
        self,
        qkv_TE: torch.Tensor,
        query_K: torch.Tensor,
        key_K: torch.Tensor,
        eps: float,
        layout: KVLayout,
    ) -> None:
        """RMSNorm of each query head and each key head by these weights, in place."""

    def rope_and_cache(
        self,
        qkv_TE: torch.Tensor,
        cos_sin_PR: torch.Tensor | None,
        kv: torch.Tensor,
        batch: Batch,
        layout: KVLayout,
    ) -> None:
        """Rotate the first R dimensions of the queries and keys of qkv in place (half-split
        convention; row p of cos_sin holds R/2 cosines, then R/2 sines; None: nothing turns) and
        write keys and values to the pool of this layer, kv[2, blocks, …]."""

    def attention(
        self,
        qkv_TE: torch.Tensor,
        kv: torch.Tensor,
        batch: Batch,
        layout: KVLayout,
        num_heads: int,
        scores: Scores,
    ) -> torch.Tensor:
        """Attention of the queries, with which each row of qkv begins, over the paged context:
        o_T(H*K)."""

    def gated_activation(
        self, gate_up_T2I: torch.Tensor, activation: str, consumer: PackedWeight | None = None
    ) -> torch.Tensor:
        """activation(gate) * up: y_TI."""

    def activation(
        self, x_TI: torch.Tensor, activation: str, consumer: PackedWeight | None = None
    ) -> torch.Tensor:
        """activation(x): y_TI."""

    def moe(self, x_TD: torch.Tensor, router_TE: torch.Tensor, experts: Experts) -> torch.Tensor:
        """The sum over each token's likeliest experts, by the softmax of the router's logits, of
        probability * down(activation(gate(x)) * up(x)): y_TD."""

    def add_gated(self, y_TD: torch.Tensor, x_TD: torch.Tensor, gate_T1: torch.Tensor) -> None:
        """y += x * sigmoid(gate), in place."""

    def take_rows(self, x_TD: torch.Tensor, rows_R: torch.Tensor) -> torch.Tensor:
        """x[rows]: y_RD."""

    def sum_ranks(self, x_TD: torch.Tensor, added: bool = False) -> torch.Tensor:
        """The sum of all ranks' x, which may be overwritten. `added` as for `linear`."""

    def gather_columns(self, x_RN: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        """y_RV: the columns of all ranks, `sizes` of each, on the first one. On the others nothing
        that counts."""

    def send_on(self, x_TD: torch.Tensor) -> None:
        """To the next stage."""

    def take_over(self, token_ids_T: torch.Tensor, num_columns: int) -> torch.Tensor:
        """x_TD, a residual stream, from the stage before."""
