"""GPT-2: LayerNorm, learned positions, a plain MLP, and matrices stored the other way round."""

from nimlite.models.config import Config, activation, decoder_spec, unsupported
from nimlite.models.spec import ModelSpec
from nimlite.models.weights import Sources, WeightNames, decoder_weights

ARCHITECTURES = ("GPT2LMHeadModel",)


def spec(config: Config) -> ModelSpec:
    hidden_size = config["n_embd"]
    named = {
        "hidden_size": hidden_size,
        "num_hidden_layers": config["n_layer"],
        "num_attention_heads": config["n_head"],
        "max_position_embeddings": config["n_positions"],
    }
    if config.get("scale_attn_by_inverse_layer_idx"):
        raise unsupported(config, "scale_attn_by_inverse_layer_idx")
    return decoder_spec(
        config | named,
        intermediate_size=config.get("n_inner") or 4 * hidden_size,
        norm="layer",
        norm_bias=True,
        norm_eps=config.get("layer_norm_epsilon", 1e-5),
        activation=activation(config.get("activation_function", "gelu_new")),
        gated_mlp=False,
        rope=None,
        learned_positions=True,
        attention_scale=None if config.get("scale_attn_weights", True) else 1.0,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        tie_embeddings=config.get("tie_word_embeddings", True),
    )


def weights(spec: ModelSpec) -> Sources:
    return decoder_weights(
        spec,
        WeightNames(
            embedding="transformer.wte",
            positions="transformer.wpe",
            layer="transformer.h.{}",
            input_norm="ln_1",
            qkv=("attn.c_attn",),
            output="attn.c_proj",
            post_norm="ln_2",
            up=("mlp.c_fc",),
            down="mlp.c_proj",
            final_norm="transformer.ln_f",
            transposed=True,
        ),
    )
