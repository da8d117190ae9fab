"""Qwen 1.5, 2 and 3 with experts: beside a shared one in the first two, with norms of queries and
keys in the third."""

from nimlite.models.config import Config, decoder_spec
from nimlite.models.families.qwen2 import late_windows
from nimlite.models.spec import ModelSpec, MoeSpec
from nimlite.models.weights import Sources, WeightNames, decoder_weights

ARCHITECTURES = ("Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM")


def spec(config: Config) -> ModelSpec:
    is_third = config["architectures"][0] == "Qwen3MoeForCausalLM"
    step, plain = config.get("decoder_sparse_step", 1), config.get("mlp_only_layers") or []
    layers = range(config["num_hidden_layers"])
    # transformers 5 writes the second name for some, and 4 the first for all
    num_experts = config.get("num_experts") or config["num_local_experts"]
    moe = MoeSpec(
        num_experts=num_experts,
        experts_per_token=config["num_experts_per_tok"],
        intermediate_size=config["moe_intermediate_size"],
        normalize=config.get("norm_topk_prob", False),
        shared_size=0 if is_third else config["shared_expert_intermediate_size"],
        dense_layers=tuple(i for i in layers if i in plain or (i + 1) % step),
    )
    has_bias = config.get("qkv_bias", not is_third)
    return decoder_spec(
        config, moe=moe, qkv_bias=has_bias, qk_norm=is_third, windows=late_windows(config)
    )


def weights(spec: ModelSpec) -> Sources:
    return decoder_weights(spec, WeightNames())
