"""GLM-4: a Llama whose heads turn in their first half, pairs side by side; from 0414 on with norms
around attention and MLP."""

from dataclasses import replace

from nimlite.models.config import Config, decoder_spec, rope
from nimlite.models.spec import ModelSpec
from nimlite.models.weights import Sources, WeightNames, decoder_weights

_SANDWICH = "Glm4ForCausalLM"
ARCHITECTURES = ("GlmForCausalLM", _SANDWICH)


def spec(config: Config) -> ModelSpec:
    rotary = rope({"partial_rotary_factor": 0.5} | config)
    return decoder_spec(
        {"head_dim": 128} | config,
        block="sandwich" if config["architectures"][0] == _SANDWICH else "sequential",
        rope=replace(rotary, interleaved=True),
        qkv_bias=config.get("attention_bias", True),
    )


def weights(spec: ModelSpec) -> Sources:
    return decoder_weights(
        spec,
        WeightNames(
            up=("mlp.gate_up_proj",),
            attention_out_norm="post_self_attn_layernorm",
            mlp_out_norm="post_mlp_layernorm",
        ),
    )
