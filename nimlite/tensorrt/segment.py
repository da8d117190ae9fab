"""The dense parts of a decoder between two attentions, in plain data.

A decoder of L layers is L + 1 segments: first | middle × (L - 1) | last. What stands between them,
before the first and after the last is computed by nimlite's own kernels: rotary positions with the
write to the paged pool, attention over it; the embedding; the head, whose logits stay in fp32. All
middle segments have the same plan, since weights are inputs.

T tokens, packed, of any mixture of sequences   D hidden   E q, k and v rows   H heads
K head dimension   I intermediate   N, C output and input features of a product
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from nimlite.models.spec import ModelSpec
from nimlite.quant.rtn import GROUP_SIZE, group_size_for

Kind = Literal["first", "middle", "last"]
DType = Literal["bf16", "fp16", "fp32", "fp8", "int8", "int4", "int64"]
ActivationType = Literal["bf16", "fp16", "fp32"]
WeightFormat = Literal["dense", "fp8", "fp8_static", "int8", "int8_dynamic", "int4"]

TOKENS = -1
"""The one dimension that is not fixed."""
_WEIGHT_TYPES: dict[WeightFormat, DType] = {
    "fp8": "fp8",
    "fp8_static": "fp8",
    "int8": "int8",
    "int8_dynamic": "int8",
    "int4": "int4",
}
SHAPING = {
    *("hidden_size", "num_heads", "num_kv_heads", "head_dim", "intermediate_size", "norm_eps"),
    *("norm", "norm_bias", "block", "activation", "gated_mlp"),
    *("qkv_bias", "output_bias", "mlp_bias"),
}
"""The fields of a model's spec that shape its segments."""
_BETWEEN = {
    *("architecture", "num_layers", "vocab_size", "max_positions", "tie_embeddings", "head_bias"),
    *("embedding_scale", "embedding_norm", "learned_positions", "logit_scale", "logit_soft_cap"),
    *("rope", "local_rope", "alibi_slopes", "windows", "attention_scale", "attention_soft_cap"),
    *("qk_norm", "clip_qkv"),
}
"""Those that nimlite's kernels obey, before, between and behind them."""
_ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu", "relu2")


@dataclass(frozen=True, slots=True)
class Port:
    """A tensor that goes in or out."""

    name: str
    dtype: DType
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One segment of a decoder.

    first: to_attention. middle: from_attention, then to_attention of the next layer. last:
    from_attention, then the final norm.
    to_attention = norm, QKV. from_attention = output projection, norm, MLP, and their additions to
    the residual, as the model's block has them.
    """

    kind: Kind
    spec: ModelSpec
    dtype: ActivationType
    """Of activations, and of dense weights. The residual is always in fp32."""
    weights: WeightFormat = "dense"
    """fp8: both factors in e4m3, each row of both with its own scale. fp8_static: the same, but
    activations with one scale that calibration fixed. int8: weights alone, a scale a row.
    int8_dynamic: both factors, as fp8. int4: weights alone, a scale and an offset for each group of
    neighbours in a row."""
    max_tokens: int
    """The largest T."""
    max_group: int = GROUP_SIZE
    """The largest group of int4."""

    @property
    def inputs(self) -> tuple[Port, ...]:
        """Activations first, then weights."""
        residual = Port("residual", "fp32", (TOKENS, self.spec.hidden_size))
        if self.kind == "first":
            return (residual, *self.weight_ports)
        attended = Port("attended", self.dtype, (TOKENS, self._queries))
        return (attended, residual, *self.weight_ports)

    @property
    def weight_ports(self) -> tuple[Port, ...]:
        """Weights by their engine names without the layer, and what belongs to them: ".scales",
        ".bias"."""
        if self.kind == "first":
            return self._to_attention()
        if self.kind == "last":
            return (*self._from_attention(), *self._norm("final_norm"))
        return (*self._from_attention(), *self._to_attention())

    @property
    def outputs(self) -> tuple[Port, ...]:
        """What comes next reads: the residual stream, where it has changed, and q, k, v side by
        side; or the normed rows whose logits are wanted."""
        spec = self.spec
        qkv = Port("qkv_out", self.dtype, (TOKENS, spec.qkv_size))
        if self.kind == "first":
            return (qkv,)
        if self.kind == "last":
            return (Port("normed", self.dtype, (TOKENS, spec.hidden_size)),)
        return (Port("residual_out", "fp32", (TOKENS, spec.hidden_size)), qkv)

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

    def matrix(self, name: str) -> tuple[int, int]:
        """N and C of the product `name`."""
        hidden, inner = self.spec.hidden_size, self.spec.intermediate_size
        shapes = {
            "qkv": (self.spec.qkv_size, hidden),
            "output": (hidden, self._queries),
            self.spec.up_name: (self.spec.up_size, hidden),
            "down": (hidden, inner),
        }
        return shapes[name]

    def group_size(self, num_columns: int) -> int:
        """Of int4: neighbours in a row that share a scale and an offset."""
        return min(group_size_for(num_columns), self.max_group)

    @property
    def _queries(self) -> int:
        return self.spec.num_heads * self.spec.head_dim

    def _norm(self, name: str) -> tuple[Port, ...]:
        names = (name, f"{name}.bias") if self.spec.norm_bias else (name,)
        return tuple(Port(each, "fp32", (self.spec.hidden_size,)) for each in names)

    def _to_attention(self) -> tuple[Port, ...]:
        return (*self._norm("input_norm"), *self._linear("qkv", self.spec.qkv_bias))

    def _from_attention(self) -> tuple[Port, ...]:
        spec = self.spec
        ports = (
            *self._linear("output", spec.output_bias),
            *self._norm("post_norm"),
            *self._linear(spec.up_name, spec.mlp_bias),
            *self._linear("down", spec.mlp_bias),
        )
        if spec.block == "sandwich":
            return (*ports, *self._norm("attention_out_norm"), *self._norm("mlp_out_norm"))
        return ports

    def _linear(self, name: str, has_bias: bool) -> tuple[Port, ...]:
        rows, columns = self.matrix(name)
        dtype = _WEIGHT_TYPES.get(self.weights, self.dtype)
        biases = (Port(f"{name}.bias", "fp32", (rows,)),) if has_bias else ()
        if self.weights == "int4":
            group_size = self.group_size(columns)
            groups = rows * columns // group_size
            return (
                Port(name, dtype, (groups, group_size)),
                Port(f"{name}.scales", "fp32", (groups,)),
                Port(f"{name}.offsets", "fp32", (groups,)),
                *biases,
            )
        ports = [Port(name, dtype, (rows, columns))]
        if self.weights != "dense":
            ports.append(Port(f"{name}.scales", "fp32", (rows,)))
        if self.weights == "fp8_static":
            ports.append(Port(f"{name}.input_scale", "fp32", ()))
        return (*ports, *biases)


def segments(
    spec: ModelSpec,
    *,
    dtype: ActivationType,
    weights: WeightFormat = "dense",
    max_tokens: int,
    max_group: int = GROUP_SIZE,
) -> tuple[Segment, ...]:
    """The distinct segments of a decoder: first, middle (where it has more than a layer), last."""
    kinds: tuple[Kind, ...] = (
        ("first", "middle", "last") if spec.num_layers > 1 else ("first", "last")
    )
    return tuple(
        Segment(
            kind=kind,
            spec=spec,
            dtype=dtype,
            weights=weights,
            max_tokens=max_tokens,
            max_group=max_group,
        )
        for kind in kinds
    )


def beyond(spec: ModelSpec) -> tuple[str, ...]:
    """What of the model no segment computes: the fields of its spec that say so. Empty: all is."""
    found = [
        field.name
        for field in dataclasses.fields(spec)
        if field.name not in SHAPING | _BETWEEN and getattr(spec, field.name) != field.default
    ]
    return (*found, *(() if spec.activation in _ACTIVATIONS else ("activation",)))
