"""Qwen 3: a Llama whose query and key heads are normed."""

from nimlite.models.config import Config, decoder_spec
from nimlite.models.families.qwen2 import late_windows
from nimlite.models.spec import ModelSpec
from nimlite.models.weights import Sources, WeightNames, decoder_weights

ARCHITECTURES = ("Qwen3ForCausalLM",)


def spec(config: Config) -> ModelSpec:
    has_bias = config.get("attention_bias", False)
    return decoder_spec(
        {"head_dim": 128} | config,
        qkv_bias=has_bias,
        output_bias=has_bias,
        qk_norm=True,
        windows=late_windows(config),
    )


def weights(spec: ModelSpec) -> Sources:
    return decoder_weights(spec, WeightNames())
