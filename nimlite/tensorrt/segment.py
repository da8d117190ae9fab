"""The dense parts of a decoder between two attentions, in plain data.

A decoder of L layers is L + 1 segments: first | middle × (L - 1) | last. Attention over the paged
pool stands between them. All middle ones have the same plan, since weights are inputs.

T tokens, packed, of any mixture of sequences   D hidden   E q, k and v rows   H heads
G key/value heads   K head dimension   I intermediate   V vocabulary   P positions
"""

from dataclasses import dataclass
from typing import Literal

from nimlite.models.spec import ModelSpec

Kind = Literal["first", "middle", "last"]
DType = Literal["bf16", "fp16", "fp32", "fp8", "int8", "int32", "int64"]
ActivationType = Literal["bf16", "fp16", "fp32"]
WeightFormat = Literal["dense", "fp8", "fp8_static", "int8"]

TOKENS = -1
"""The one dimension that is not fixed."""


@dataclass(frozen=True, slots=True)
class Port:
    """A tensor that goes in or out."""

    name: str
    dtype: DType
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One segment of a decoder.

    first: embedding, then to_attention. middle: from_attention, then to_attention of the next
    layer. last: from_attention, final norm, head.
    to_attention = RMSNorm, QKV, RoPE. from_attention = output projection, residual, RMSNorm, gated
    MLP, residual.
    """

    kind: Kind
    spec: ModelSpec
    dtype: ActivationType
    """Of activations, and of dense weights."""
    weights: WeightFormat = "dense"
    """fp8: both factors in e4m3, each row of both with its own scale. fp8_static: the same, but
    activations with one scale that calibration fixed. int8: weights alone, a scale a row. Embedding
    and head are always dense."""
    max_tokens: int
    """The largest T."""

    @property
    def inputs(self) -> tuple[Port, ...]:
        """Activations first, then weights by their engine names without the layer."""
        activations = self._embedded() if self.kind == "first" else self._attended()
        if self.kind == "last":
            return (*activations, *self._from_attention(), *self._head())
        to_attention = (*self._positions(), *self._to_attention())
        if self.kind == "first":
            return (*activations, *to_attention)
        return (*activations, *self._from_attention(), *to_attention)

    @property
    def outputs(self) -> tuple[Port, ...]:
        """What attention and the next segment read: the residual stream and rotated q, k, v; or
        the logits."""
        spec = self.spec
        if self.kind == "last":
            return (Port("logits", self.dtype, (TOKENS, spec.vocab_size)),)
        keys = (TOKENS, spec.num_kv_heads, spec.head_dim)
        return (
            Port("residual_out", self.dtype, (TOKENS, spec.hidden_size)),
            Port("q", self.dtype, (TOKENS, spec.num_heads, spec.head_dim)),
            Port("k", self.dtype, keys),
            Port("v", self.dtype, keys),
        )

    @property
    def token_ranges(self) -> tuple[tuple[int, int, int], ...]:
        """(smallest, typical, largest) T of each optimization profile: one token; a batch that
        decodes; prompts."""
        ranges = [(1, 1, 1)]
        if self.max_tokens > 1:
            ranges.append((2, min(16, self.max_tokens), min(64, self.max_tokens)))
        if self.max_tokens > 64:
            ranges.append((65, min(1024, self.max_tokens), self.max_tokens))
        return tuple(ranges)

    @property
    def _weight_dtype(self) -> DType:
        if self.weights == "dense":
            return self.dtype
        return "int8" if self.weights == "int8" else "fp8"

    def _embedded(self) -> tuple[Port, ...]:
        table = (self.spec.vocab_size, self.spec.hidden_size)
        return Port("token_ids", "int32", (TOKENS,)), Port("embedding", self.dtype, table)

    def _attended(self) -> tuple[Port, ...]:
        queries = self.spec.num_heads * self.spec.head_dim
        return (
            Port("attended", self.dtype, (TOKENS, queries)),
            Port("residual", self.dtype, (TOKENS, self.spec.hidden_size)),
        )

    def _positions(self) -> tuple[Port, ...]:
        half = (self.spec.max_positions, self.spec.head_dim // 2)
        return (
            Port("positions", "int64", (TOKENS,)),
            Port("cos", "fp32", half),
            Port("sin", "fp32", half),
        )

    def _to_attention(self) -> tuple[Port, ...]:
        spec = self.spec
        qkv = self._linear("qkv", spec.qkv_size, spec.hidden_size, bias=spec.qkv_bias)
        return (Port("input_norm", "fp32", (spec.hidden_size,)), *qkv)

    def _from_attention(self) -> tuple[Port, ...]:
        spec = self.spec
        hidden, inner = spec.hidden_size, spec.intermediate_size
        queries = spec.num_heads * spec.head_dim
        return (
            *self._linear("output", hidden, queries, bias=spec.output_bias),
            Port("post_norm", "fp32", (hidden,)),
            *self._linear("gate_up", 2 * inner, hidden, bias=spec.mlp_bias),
            *self._linear("down", hidden, inner, bias=spec.mlp_bias),
        )

    def _head(self) -> tuple[Port, ...]:
        hidden = self.spec.hidden_size
        head = Port("head", self.dtype, (self.spec.vocab_size, hidden))
        return Port("final_norm", "fp32", (hidden,)), head

    def _linear(self, name: str, rows: int, columns: int, *, bias: bool) -> tuple[Port, ...]:
        matrix = (rows, columns)
        ports = [Port(name, self._weight_dtype, matrix)]
        if self.weights != "dense":
            ports.append(Port(f"{name}.scales", "fp32", (rows,)))
        if self.weights == "fp8_static":
            ports.append(Port(f"{name}.input_scale", "fp32", ()))
        if bias:
            ports.append(Port(f"{name}.bias", "fp32", (rows,)))
        return tuple(ports)


def segments(
    spec: ModelSpec,
    *,
    dtype: ActivationType,
    weights: WeightFormat = "dense",
    max_tokens: int,
    max_logit_rows: int,
) -> tuple[Segment, ...]:
    """The distinct segments of a decoder: first, middle (where it has more than a layer), last.

    The last one is given the rows alone whose logits are wanted, at most `max_logit_rows`.
    """
    kinds: tuple[Kind, ...] = (
        ("first", "middle", "last") if spec.num_layers > 1 else ("first", "last")
    )
    return tuple(
        Segment(
            kind=kind,
            spec=spec,
            dtype=dtype,
            weights=weights,
            max_tokens=max_logit_rows if kind == "last" else max_tokens,
        )
        for kind in kinds
    )
