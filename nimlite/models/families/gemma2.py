"""Gemma 2: Gemma 1 with norms around attention and MLP, capped scores and logits, and a window on
every other layer."""

from typing import Any

from nimlite.models.config import Config, activation, decoder_spec, windows
from nimlite.models.spec import ModelSpec
from nimlite.models.weights import Sources, WeightNames, decoder_weights

ARCHITECTURES = ("Gemma2ForCausalLM",)


def spec(config: Config) -> ModelSpec:
    config = {"sliding_window": 4096} | config
    return sandwich_spec(
        config,
        windows=windows(config, lambda layer: layer % 2 == 0),
        attention_soft_cap=config.get("attn_logit_softcapping", 50.0) or 0.0,
        logit_soft_cap=config.get("final_logit_softcapping", 30.0) or 0.0,
    )


def sandwich_spec(config: Config, **changes: Any) -> ModelSpec:
    """What Gemma 2 and 3 share."""
    has_bias = config.get("attention_bias", False)
    return decoder_spec(
        {"head_dim": 256} | config,
        block="sandwich",
        activation=activation(config.get("hidden_activation", "gelu_pytorch_tanh")),
        qkv_bias=has_bias,
        output_bias=has_bias,
        attention_scale=config.get("query_pre_attn_scalar", 256) ** -0.5,
        embedding_scale=config["hidden_size"] ** 0.5,
        tie_embeddings=config.get("tie_word_embeddings", True),
        **changes,
    )


SANDWICH = WeightNames(
    post_norm="pre_feedforward_layernorm",
    attention_out_norm="post_attention_layernorm",
    mlp_out_norm="post_feedforward_layernorm",
    norm_offset=1.0,
)


def weights(spec: ModelSpec) -> Sources:
    return decoder_weights(spec, SANDWICH)
