"""BERT, RoBERTa and XLM-RoBERTa: encoders alone, for embeddings.

Every token sees the whole text. Norms stand behind what is added, and positions are learned. All
tokens of a text have the first token type.
"""

from dataclasses import replace
from typing import Any

from nimlite.models.config import Config, activation, unsupported
from nimlite.models.spec import ModelSpec, Stored, WeightSource
from nimlite.models.weights import Sources, WeightNames, stack_weights

ARCHITECTURES = (
    "BertModel",
    "BertForMaskedLM",
    "RobertaModel",
    "RobertaForMaskedLM",
    "XLMRobertaModel",
    "XLMRobertaForMaskedLM",
)


def spec(config: Config) -> ModelSpec:
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise unsupported(config, f"positions of the type {config['position_embedding_type']!r}")
    if config.get("is_decoder"):
        raise unsupported(config, "an encoder that is a decoder (is_decoder)")
    architecture = config["architectures"][0]
    num_heads = config["num_attention_heads"]
    given: dict[str, Any] = {
        "architecture": architecture,
        "num_layers": config["num_hidden_layers"],
        "hidden_size": config["hidden_size"],
        "num_heads": num_heads,
        "num_kv_heads": num_heads,
        "head_dim": config["hidden_size"] // num_heads,
        "intermediate_size": config["intermediate_size"],
        "vocab_size": config["vocab_size"],
        "max_positions": config["max_position_embeddings"] - _skipped(architecture),
        "norm_eps": config.get("layer_norm_eps", 1e-12),
        "activation": activation(config.get("hidden_act", "gelu")),
        "token_types": config.get("type_vocab_size", 2),
    }
    return ModelSpec(
        **given,
        norm="layer",
        norm_bias=True,
        block="post",
        gated_mlp=False,
        rope=None,
        learned_positions=True,
        causal=False,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        embedding_norm=True,
        tie_embeddings=True,  # a head of its own it has only for training
    )


def weights(spec: ModelSpec) -> Sources:
    base = "bert" if spec.architecture.startswith("Bert") else "roberta"
    return encoder_weights(spec, base)


def encoder_weights(spec: ModelSpec, base: str, **names: Any) -> Sources:
    """`base`: of the checkpoint's modules. `names`: of those that BERT calls otherwise."""
    embeddings = f"{base}.embeddings"
    bert = WeightNames(
        embedding_norm=f"{embeddings}.LayerNorm",
        positions=f"{embeddings}.position_embeddings",
        skipped_positions=_skipped(spec.architecture),
        layer=f"{base}.encoder.layer.{{}}",
        qkv=tuple(f"attention.self.{name}" for name in ("query", "key", "value")),
        output="attention.output.dense",
        attention_out_norm="attention.output.LayerNorm",
        up=("intermediate.dense",),
        down="output.dense",
        mlp_out_norm="output.LayerNorm",
    )
    words = Stored(
        name=f"{embeddings}.word_embeddings.weight", shape=(spec.vocab_size, spec.hidden_size)
    )
    sources = {
        "embedding": WeightSource(tensors=(words,), shard="rows"),
        **stack_weights(spec, replace(bert, **names)),
    }
    if spec.token_types:
        types = Stored(
            name=f"{embeddings}.token_type_embeddings.weight",
            shape=(spec.token_types, spec.hidden_size),
        )
        sources["token_types"] = WeightSource(tensors=(types,), quantize=False)
    return sources


def _skipped(architecture: str) -> int:
    """RoBERTa's positions begin behind its padding token's, which is 1 in every checkpoint."""
    return 0 if architecture.startswith("Bert") else 2
