"""Llama and what shares its architecture: RMSNorm, rotary positions, grouped queries, gated MLP.

Mistral's layers see a window, where its config has one.
"""

from nimlite.models.config import Config, decoder_spec, windows
from nimlite.models.spec import ModelSpec
from nimlite.models.weights import Sources, WeightNames, decoder_weights

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM")


def spec(config: Config) -> ModelSpec:
    is_mistral = config["architectures"][0] == "MistralForCausalLM"
    return decoder_spec(
        config,
        qkv_bias=config.get("attention_bias", False),
        output_bias=config.get("attention_bias", False),
        mlp_bias=config.get("mlp_bias", False),
        windows=windows(config, lambda layer: True) if is_mistral else (),
    )


def weights(spec: ModelSpec) -> Sources:
    return decoder_weights(spec, WeightNames())
