"""GPT-NeoX and Pythia: attention and MLP in parallel behind a LayerNorm each, heads that turn in
part."""

from nimlite.models.config import Config, activation, decoder_spec, rope
from nimlite.models.spec import ModelSpec
from nimlite.models.weights import Sources, WeightNames, decoder_weights

ARCHITECTURES = ("GPTNeoXForCausalLM",)


def spec(config: Config) -> ModelSpec:
    rotary = {
        "rope_theta": config.get("rotary_emb_base", 10_000.0),
        "partial_rotary_factor": config.get("rotary_pct", 0.25),
    }
    has_bias = config.get("attention_bias", True)
    return decoder_spec(
        config,
        norm="layer",
        norm_bias=True,
        norm_eps=config.get("layer_norm_eps", 1e-5),
        block="parallel" if config.get("use_parallel_residual", True) else "sequential",
        activation=activation(config.get("hidden_act", "gelu")),
        gated_mlp=False,
        rope=rope(rotary | config),
        qkv_bias=has_bias,
        output_bias=has_bias,
        mlp_bias=True,
    )


def weights(spec: ModelSpec) -> Sources:
    return decoder_weights(
        spec,
        WeightNames(
            embedding="gpt_neox.embed_in",
            layer="gpt_neox.layers.{}",
            qkv=("attention.query_key_value",),
            qkv_groups=spec.num_heads,
            output="attention.dense",
            up=("mlp.dense_h_to_4h",),
            down="mlp.dense_4h_to_h",
            final_norm="gpt_neox.final_layer_norm",
            head="embed_out",
        ),
    )
