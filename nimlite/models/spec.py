"""What an architecture is made of, in plain data. No parallelism, no quantization, no device.

A family's file (`llama.py`) turns a Hugging Face config into a `ModelSpec` and says which
checkpoint tensors make up each engine
tensor. Every decoder shares one forward (`layers/decoder.py`) that reads the spec.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeSpec:
    """Rotary positions. `scaling` is Hugging Face's `rope_parameters`, read by layers/rotary.py."""

    theta: float = 10_000.0
    scaling: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """The shape of a decoder-only model."""

    architecture: str
    """Hugging Face's class name, such as LlamaForCausalLM."""
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_positions: int
    norm_eps: float
    activation: Literal["silu", "gelu", "gelu_tanh"] = "silu"
    rope: RopeSpec = field(default_factory=RopeSpec)
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    tie_embeddings: bool = False

    @property
    def qkv_size(self) -> int:
        """Rows of the fused QKV matrix: all query heads, then all key heads, then all value
        heads."""
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim

    @property
    def num_parameters(self) -> int:
        """Parameters, with a tied embedding counted once and norms and biases left out."""
        attention = self.hidden_size * (self.qkv_size + self.num_heads * self.head_dim)
        mlp = 3 * self.hidden_size * self.intermediate_size
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_embeddings else 2)
        return self.num_layers * (attention + mlp) + embeddings

    def kv_bytes_per_token(self, element_bytes: float) -> float:
        """Bytes of keys and values that one token takes over all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * element_bytes


@dataclass(frozen=True, slots=True)
class WeightSource:
    """How one engine tensor is made: the checkpoint tensors of `names`, concatenated along
    dimension 0."""

    names: tuple[str, ...]
    shard: Literal["rows", "columns", "none"] = "none"
    """Which dimension tensor parallelism splits: rows = output features of each part, columns =
    input features."""
    quantize: bool = True
    """False for norms and biases, which stay in fp32."""
    units: tuple[int, ...] = ()
    """How many indivisible units (heads) each part has along the split dimension; empty: every row
    or column is one.
    With fewer units than ranks, several ranks hold the same one."""
