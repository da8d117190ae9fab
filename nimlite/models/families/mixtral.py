"""Mixtral: a Llama with experts (arXiv:2401.04088)."""

from nimlite.models.config import Config, decoder_spec, windows
from nimlite.models.spec import ModelSpec, MoeSpec
from nimlite.models.weights import Sources, WeightNames, decoder_weights

ARCHITECTURES = ("MixtralForCausalLM",)


def spec(config: Config) -> ModelSpec:
    moe = MoeSpec(
        num_experts=config["num_local_experts"],
        experts_per_token=config["num_experts_per_tok"],
        intermediate_size=config["intermediate_size"],
    )
    return decoder_spec(config, moe=moe, windows=windows(config, lambda layer: True))


def weights(spec: ModelSpec) -> Sources:
    names = WeightNames(
        router="block_sparse_moe.gate",
        expert="block_sparse_moe.experts.{}",
        expert_up=("w1", "w3"),
        expert_down="w2",
    )
    return decoder_weights(spec, names)
