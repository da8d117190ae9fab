"""ChatGLM 2 and 3, and GLM-4 in the same format: the keys and names of their own code
(https://huggingface.co/THUDM/chatglm3-6b/blob/main/modeling_chatglm.py)."""

from nimlite.models.config import Config, decoder_spec, unsupported
from nimlite.models.spec import ModelSpec, RopeSpec
from nimlite.models.weights import Sources, WeightNames, decoder_weights

ARCHITECTURES = ("ChatGLMModel", "ChatGLMForConditionalGeneration")


def spec(config: Config) -> ModelSpec:
    expected = {
        "apply_residual_connection_post_layernorm": False,
        "post_layer_norm": True,
        "rmsnorm": True,
    }
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise unsupported(config, f"{key}: {config[key]}")
    head_dim, num_heads = config["kv_channels"], config["num_attention_heads"]
    few = config.get("multi_query_attention", False)
    named = {
        "num_hidden_layers": config["num_layers"],
        "num_key_value_heads": config["multi_query_group_num"] if few else num_heads,
        "head_dim": head_dim,
        "intermediate_size": config["ffn_hidden_size"],
        "vocab_size": config["padded_vocab_size"],
        "max_position_embeddings": config["seq_length"],
    }
    has_bias = config.get("add_bias_linear", False)
    return decoder_spec(
        config | named,
        norm_eps=config["layernorm_epsilon"],
        activation="silu",
        rope=RopeSpec(
            theta=10_000.0 * config.get("rope_ratio", 1), dim=head_dim // 2, interleaved=True
        ),
        qkv_bias=has_bias or config.get("add_qkv_bias", False),
        output_bias=has_bias,
        mlp_bias=has_bias,
    )


def weights(spec: ModelSpec) -> Sources:
    return decoder_weights(
        spec,
        WeightNames(
            embedding="transformer.embedding.word_embeddings",
            layer="transformer.encoder.layers.{}",
            qkv=("self_attention.query_key_value",),
            output="self_attention.dense",
            up=("mlp.dense_h_to_4h",),
            down="mlp.dense_4h_to_h",
            final_norm="transformer.encoder.final_layernorm",
            head="transformer.output_layer",
        ),
    )
