"""Falcon: 7B (one key/value head, attention and MLP in parallel behind one LayerNorm), 40B and 180B
(groups of heads, a LayerNorm each), RW (ALiBi, one after the other)."""

from nimlite.models.alibi import published_slopes
from nimlite.models.config import Config, activation, decoder_spec
from nimlite.models.spec import BlockKind, ModelSpec
from nimlite.models.weights import Sources, WeightNames, decoder_weights

ARCHITECTURES = ("FalconForCausalLM", "RWForCausalLM")


def spec(config: Config) -> ModelSpec:
    hidden_size = config.get("hidden_size") or config["n_embed"]
    num_heads = config.get("num_attention_heads") or config["n_head"]
    is_new = config.get("new_decoder_architecture", False)
    has_bias = config.get("bias", False)
    if is_new:
        num_kv_heads = config.get("num_kv_heads") or config.get("n_head_kv") or num_heads
    else:
        num_kv_heads = 1 if config.get("multi_query", True) else num_heads
    named = {
        "hidden_size": hidden_size,
        "num_hidden_layers": config.get("num_hidden_layers") or config.get("n_layer"),
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        "max_position_embeddings": config.get("max_position_embeddings", 2048),
    }
    changes = {}
    if config.get("alibi", False):
        # Scores are scaled after the loss with distance.
        scale = (hidden_size // num_heads) ** -0.5
        slopes = tuple(slope * scale for slope in published_slopes(num_heads))
        changes = {"rope": None, "alibi_slopes": slopes}
    return decoder_spec(
        config | named,
        intermediate_size=config.get("ffn_hidden_size") or 4 * hidden_size,
        norm="layer",
        norm_bias=True,
        norm_eps=config.get("layer_norm_epsilon", 1e-5),
        block=_block(config, is_new),
        activation=activation(config.get("activation") or "gelu"),
        gated_mlp=False,
        qkv_bias=has_bias,
        output_bias=has_bias,
        mlp_bias=has_bias,
        tie_embeddings=config.get("tie_word_embeddings", True),
        **changes,
    )


def _block(config: Config, is_new: bool) -> BlockKind:
    if is_new:
        one_norm = config.get("num_ln_in_parallel_attn") == 1
        return "parallel_shared" if one_norm else "parallel"
    return "parallel_shared" if config.get("parallel_attn", True) else "sequential"


def weights(spec: ModelSpec) -> Sources:
    two_norms = spec.block == "parallel"
    return decoder_weights(
        spec,
        WeightNames(
            embedding="transformer.word_embeddings",
            layer="transformer.h.{}",
            input_norm="ln_attn" if two_norms else "input_layernorm",
            post_norm="ln_mlp" if two_norms else "post_attention_layernorm",
            qkv=("self_attention.query_key_value",),
            qkv_groups=spec.num_kv_heads,
            output="self_attention.dense",
            up=("mlp.dense_h_to_4h",),
            down="mlp.dense_4h_to_h",
            final_norm="transformer.ln_f",
        ),
    )
