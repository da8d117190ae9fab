"""BLOOM: LayerNorm, after the embedding too, and ALiBi."""

from nimlite.models.alibi import published_slopes
from nimlite.models.config import Config, decoder_spec, unsupported
from nimlite.models.spec import ModelSpec
from nimlite.models.weights import Sources, WeightNames, decoder_weights

ARCHITECTURES = ("BloomForCausalLM",)


def spec(config: Config) -> ModelSpec:
    hidden_size = config.get("hidden_size") or config["n_embed"]
    num_heads = config.get("n_head") or config["num_attention_heads"]
    if config.get("apply_residual_connection_post_layernorm", False):
        raise unsupported(config, "apply_residual_connection_post_layernorm")
    named = {
        "hidden_size": hidden_size,
        "num_hidden_layers": config.get("n_layer") or config["num_hidden_layers"],
        "num_attention_heads": num_heads,
        # What it was trained on; ALiBi itself has no end.
        "max_position_embeddings": config.get("seq_length", 2048),
    }
    return decoder_spec(
        config | named,
        intermediate_size=4 * hidden_size,
        norm="layer",
        norm_bias=True,
        norm_eps=config.get("layer_norm_epsilon", 1e-5),
        activation="gelu_tanh",
        gated_mlp=False,
        rope=None,
        alibi_slopes=published_slopes(num_heads),
        embedding_norm=True,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        tie_embeddings=config.get("tie_word_embeddings", True),
    )


def weights(spec: ModelSpec) -> Sources:
    return decoder_weights(
        spec,
        WeightNames(
            embedding="transformer.word_embeddings",
            embedding_norm="transformer.word_embeddings_layernorm",
            layer="transformer.h.{}",
            qkv=("self_attention.query_key_value",),
            qkv_groups=spec.num_heads,
            output="self_attention.dense",
            up=("mlp.dense_h_to_4h",),
            down="mlp.dense_4h_to_h",
            final_norm="transformer.ln_f",
        ),
    )
