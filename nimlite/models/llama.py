"""Llama and what shares its architecture: RMSNorm, rotary positions, grouped queries, gated MLP."""

from collections.abc import Mapping
from typing import Any, Literal

from nimlite.errors import ModelError
from nimlite.models.spec import ModelSpec, RopeSpec, WeightSource

Sources = dict[str, WeightSource]

_ACTIVATIONS: Mapping[str, Literal["silu", "gelu", "gelu_tanh"]] = {
    "silu": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


def spec(config: Mapping[str, Any]) -> ModelSpec:
    """Read a Hugging Face config.json. Raises ModelError for an activation that is not
    supported."""
    activation = config.get("hidden_act", "silu")
    if activation not in _ACTIVATIONS:
        raise ModelError(
            f"The activation {activation!r} of config.json is not supported; supported are "
            f"{', '.join(_ACTIVATIONS)}."
        )
    num_heads = config["num_attention_heads"]
    max_positions = config["max_position_embeddings"]
    return ModelSpec(
        architecture=config["architectures"][0],
        num_layers=config["num_hidden_layers"],
        hidden_size=config["hidden_size"],
        num_heads=num_heads,
        num_kv_heads=config.get("num_key_value_heads") or num_heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // num_heads,
        intermediate_size=config["intermediate_size"],
        vocab_size=config["vocab_size"],
        # Mistral's window: up to its length, windowed attention is plain attention.
        max_positions=min(max_positions, config.get("sliding_window") or max_positions),
        norm_eps=config["rms_norm_eps"],
        activation=_ACTIVATIONS[activation],
        rope=_rope(config),
        qkv_bias=config.get("attention_bias", False),
        output_bias=config.get("attention_bias", False),
        mlp_bias=config.get("mlp_bias", False),
        tie_embeddings=config.get("tie_word_embeddings", False),
    )


def _rope(config: Mapping[str, Any]) -> RopeSpec:
    """transformers 5 writes `rope_parameters`; 4 wrote `rope_theta` and `rope_scaling`."""
    parameters = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = parameters.pop("rope_theta", config.get("rope_theta", 10_000.0))
    kind = parameters.pop("rope_type", parameters.pop("type", "default"))
    return RopeSpec(
        theta=theta, scaling={} if kind == "default" else parameters | {"rope_type": kind}
    )


def weights(spec: ModelSpec) -> Sources:
    """How every engine tensor is made of the checkpoint's."""
    heads = (spec.num_heads, spec.num_kv_heads, spec.num_kv_heads)
    sources = {
        "embedding": WeightSource(("model.embed_tokens.weight",), "rows"),
        "final_norm": WeightSource(("model.norm.weight",), quantize=False),
    }
    if not spec.tie_embeddings:
        sources["head"] = WeightSource(("lm_head.weight",), "rows")
    for i in range(spec.num_layers):
        layer, attention, mlp = (f"model.layers.{i}{part}" for part in ("", ".self_attn", ".mlp"))
        qkv = tuple(f"{attention}.{part}_proj" for part in "qkv")
        gate_up = (f"{mlp}.gate_proj", f"{mlp}.up_proj")
        for name, module in (("input", "input"), ("post", "post_attention")):
            norm = WeightSource((f"{layer}.{module}_layernorm.weight",), quantize=False)
            sources[f"layers.{i}.{name}_norm"] = norm
        sources |= {
            **_rows(f"layers.{i}.qkv", qkv, spec.qkv_bias, heads),
            **_columns(f"layers.{i}.output", f"{attention}.o_proj", spec.output_bias, heads[:1]),
            **_rows(f"layers.{i}.gate_up", gate_up, spec.mlp_bias, ()),
            **_columns(f"layers.{i}.down", f"{mlp}.down_proj", spec.mlp_bias, ()),
        }
    return sources


def _rows(name: str, modules: tuple[str, ...], has_bias: bool, units: tuple[int, ...]) -> Sources:
    sources = {name: WeightSource(tuple(f"{m}.weight" for m in modules), "rows", units=units)}
    if has_bias:
        biases = tuple(f"{m}.bias" for m in modules)
        sources[f"{name}.bias"] = WeightSource(biases, "rows", quantize=False, units=units)
    return sources


def _columns(name: str, module: str, has_bias: bool, units: tuple[int, ...]) -> Sources:
    """The ranks' products are summed: the bias is whole on every rank, and one of them adds it."""
    sources = {name: WeightSource((f"{module}.weight",), "columns", units=units)}
    if has_bias:
        sources[f"{name}.bias"] = WeightSource((f"{module}.bias",), quantize=False)
    return sources
