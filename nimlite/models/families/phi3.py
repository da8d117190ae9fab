"""Phi-3 and Phi-4: a Llama whose checkpoint has fused matrices, with LongRoPE and a window."""

from nimlite.models.config import Config, decoder_spec, windows
from nimlite.models.spec import ModelSpec
from nimlite.models.weights import Sources, WeightNames, decoder_weights

ARCHITECTURES = ("Phi3ForCausalLM",)


def spec(config: Config) -> ModelSpec:
    return decoder_spec(config, windows=windows(config, lambda layer: True))


def weights(spec: ModelSpec) -> Sources:
    return decoder_weights(spec, WeightNames(qkv=("self_attn.qkv_proj",), up=("mlp.gate_up_proj",)))
