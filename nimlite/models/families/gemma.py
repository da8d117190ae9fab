"""Gemma 1: a Llama with heads of 256, GELU, a scaled embedding, and norms whose weights lack 1."""

from nimlite.models.config import Config, decoder_spec
from nimlite.models.spec import ModelSpec
from nimlite.models.weights import Sources, WeightNames, decoder_weights

ARCHITECTURES = ("GemmaForCausalLM",)


def spec(config: Config) -> ModelSpec:
    has_bias = config.get("attention_bias", False)
    return decoder_spec(
        {"head_dim": 256} | config,
        # The first configs say "gelu" and mean this.
        activation="gelu_tanh",
        qkv_bias=has_bias,
        output_bias=has_bias,
        embedding_scale=config["hidden_size"] ** 0.5,
        tie_embeddings=config.get("tie_word_embeddings", True),
    )


def weights(spec: ModelSpec) -> Sources:
    return decoder_weights(spec, WeightNames(norm_offset=1.0))
