"""Phi 1, 1.5 and 2: attention and MLP in parallel behind one LayerNorm, heads that turn in part,
biases everywhere."""

from nimlite.models.config import Config, activation, decoder_spec, rope, unsupported
from nimlite.models.spec import ModelSpec
from nimlite.models.weights import Sources, WeightNames, decoder_weights

ARCHITECTURES = ("PhiForCausalLM",)


def spec(config: Config) -> ModelSpec:
    if config.get("qk_layernorm", False):
        raise unsupported(config, "qk_layernorm")
    return decoder_spec(
        config,
        norm="layer",
        norm_bias=True,
        norm_eps=config.get("layer_norm_eps", 1e-5),
        block="parallel_shared",
        activation=activation(config.get("hidden_act", "gelu_new")),
        gated_mlp=False,
        rope=rope({"partial_rotary_factor": 0.5} | config),
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        head_bias=True,
    )


def weights(spec: ModelSpec) -> Sources:
    return decoder_weights(
        spec,
        WeightNames(
            output="self_attn.dense",
            up=("mlp.fc1",),
            down="mlp.fc2",
            final_norm="model.final_layernorm",
        ),
    )
