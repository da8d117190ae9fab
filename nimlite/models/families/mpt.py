"""MPT: LayerNorm without a bias, ALiBi, and queries, keys and values that may be cut off."""

from nimlite.models.alibi import mpt_slopes
from nimlite.models.config import Config, decoder_spec, unsupported
from nimlite.models.spec import ModelSpec
from nimlite.models.weights import Sources, WeightNames, decoder_weights

ARCHITECTURES = ("MPTForCausalLM", "MptForCausalLM")


def spec(config: Config) -> ModelSpec:
    attention = config.get("attn_config") or {}
    hidden_size, num_heads = config["d_model"], config["n_heads"]
    for key in ("prefix_lm", "qk_ln"):
        if attention.get(key):
            raise unsupported(config, f"attn_config.{key}")
    if not config.get("no_bias", True):
        raise unsupported(config, "no_bias: false")
    if not attention.get("alibi", True):
        raise unsupported(config, "attn_config.alibi: false")
    named = {
        "hidden_size": hidden_size,
        "num_hidden_layers": config["n_layers"],
        "num_attention_heads": num_heads,
        "num_key_value_heads": 1 if attention.get("attn_type") == "multiquery_attention" else None,
        "max_position_embeddings": config["max_seq_len"],
    }
    return decoder_spec(
        config | named,
        intermediate_size=config.get("expansion_ratio", 4) * hidden_size,
        norm="layer",
        norm_eps=config.get("layer_norm_epsilon", 1e-5),
        activation="gelu",
        gated_mlp=False,
        rope=None,
        alibi_slopes=mpt_slopes(num_heads, attention.get("alibi_bias_max", 8)),
        attention_scale=attention.get("softmax_scale"),
        clip_qkv=attention.get("clip_qkv") or 0.0,
        logit_scale=_logit_scale(config.get("logit_scale"), hidden_size),
        tie_embeddings=config.get("tie_word_embeddings", True),
    )


def _logit_scale(given: float | str | None, hidden_size: int) -> float:
    if given is None:
        return 1.0
    return hidden_size**-0.5 if given == "inv_sqrt_d_model" else float(given)


def weights(spec: ModelSpec) -> Sources:
    return decoder_weights(
        spec,
        WeightNames(
            embedding="transformer.wte",
            layer="transformer.blocks.{}",
            input_norm="norm_1",
            qkv=("attn.Wqkv",),
            output="attn.out_proj",
            post_norm="norm_2",
            up=("ffn.up_proj",),
            down="ffn.down_proj",
            final_norm="transformer.norm_f",
        ),
    )
