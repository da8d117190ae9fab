"""BART: an encoder and a decoder, learned positions, and a LayerNorm behind all that is added."""

from dataclasses import replace
from typing import Any

from nimlite.models.config import Config, activation, unsupported
from nimlite.models.spec import ModelSpec
from nimlite.models.weights import Sources, WeightNames, decoder_weights, encoder_weights

ARCHITECTURES = ("BartForConditionalGeneration",)


def spec(config: Config) -> ModelSpec:
    hidden_size, num_heads = config["d_model"], config["decoder_attention_heads"]
    if config["encoder_attention_heads"] != num_heads:
        raise unsupported(config, "an encoder with other heads than the decoder's")
    shared: dict[str, Any] = {
        "architecture": config["architectures"][0],
        "hidden_size": hidden_size,
        "num_heads": num_heads,
        "num_kv_heads": num_heads,
        "head_dim": hidden_size // num_heads,
        "vocab_size": config["vocab_size"],
        "max_positions": config["max_position_embeddings"],
        "norm": "layer",
        "norm_bias": True,
        "norm_eps": 1e-5,
        "block": "post",
        "activation": activation(config.get("activation_function", "gelu")),
        "gated_mlp": False,
        "rope": None,
        "learned_positions": True,
        "qkv_bias": True,
        "output_bias": True,
        "mlp_bias": True,
        "embedding_scale": hidden_size**0.5 if config.get("scale_embedding") else 1.0,
        "embedding_norm": True,
        "tie_embeddings": config.get("tie_word_embeddings", True),
    }
    forced = config.get("forced_bos_token_id")
    return ModelSpec(
        num_layers=config["decoder_layers"],
        intermediate_size=config["decoder_ffn_dim"],
        head_bias=True,
        decoder_prompt=(
            config["decoder_start_token_id"],
            *(() if forced is None else (forced,)),
        ),
        encoder=ModelSpec(
            num_layers=config["encoder_layers"],
            intermediate_size=config["encoder_ffn_dim"],
            causal=False,
            **shared,
        ),
        **shared,
    )


def weights(spec: ModelSpec) -> Sources:
    encoder = WeightNames(
        embedding="model.shared",
        logits_bias="final_logits_bias",
        positions="model.encoder.embed_positions",
        skipped_positions=2,
        embedding_norm="model.encoder.layernorm_embedding",
        layer="model.encoder.layers.{}",
        qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        output="self_attn.out_proj",
        attention_out_norm="self_attn_layer_norm",
        up=("fc1",),
        down="fc2",
        mlp_out_norm="final_layer_norm",
    )
    decoder = replace(
        encoder,
        positions="model.decoder.embed_positions",
        embedding_norm="model.decoder.layernorm_embedding",
        layer="model.decoder.layers.{}",
        cross_norm="encoder_attn_layer_norm",
        cross_q="encoder_attn.q_proj",
        cross_kv=("encoder_attn.k_proj", "encoder_attn.v_proj"),
        cross_output="encoder_attn.out_proj",
    )
    return decoder_weights(spec, decoder) | encoder_weights(spec, encoder)
