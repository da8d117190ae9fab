"""T5, T5 1.1 and Flan-T5: an encoder and a decoder, scores that learn distances and are not scaled,
RMSNorm, and a plain or a gated MLP."""

from dataclasses import replace
from typing import Any

from nimlite.models.config import Config, activation
from nimlite.models.spec import ModelSpec, RelativeBias
from nimlite.models.weights import Sources, WeightNames, decoder_weights, encoder_weights

ARCHITECTURES = ("T5ForConditionalGeneration",)


def spec(config: Config) -> ModelSpec:
    kind = config.get("feed_forward_proj", "relu")
    is_gated = kind.startswith("gated-")
    # "gated-gelu" means the approximation, for its first checkpoints had it
    name = "gelu_new" if kind == "gated-gelu" else kind.removeprefix("gated-")
    is_scaled = config.get("scale_decoder_outputs", config.get("tie_word_embeddings", True))
    shared: dict[str, Any] = {
        "architecture": config["architectures"][0],
        "hidden_size": config["d_model"],
        "num_heads": config["num_heads"],
        "num_kv_heads": config["num_heads"],
        "head_dim": config["d_kv"],
        "intermediate_size": config["d_ff"],
        "vocab_size": config["vocab_size"],
        "max_positions": config.get("n_positions") or 512,
        "norm_eps": config.get("layer_norm_epsilon", 1e-6),
        "activation": activation(name),
        "gated_mlp": is_gated,
        "rope": None,
        "attention_scale": 1.0,
        "relative_bias": RelativeBias(
            num_buckets=config.get("relative_attention_num_buckets", 32),
            max_distance=config.get("relative_attention_max_distance", 128),
        ),
        "tie_embeddings": is_scaled,
    }
    start = config.get("decoder_start_token_id")
    return ModelSpec(
        num_layers=config.get("num_decoder_layers") or config["num_layers"],
        logit_scale=config["d_model"] ** -0.5 if is_scaled else 1.0,
        decoder_prompt=(config["pad_token_id"] if start is None else start,),
        encoder=ModelSpec(num_layers=config["num_layers"], causal=False, **shared),
        **shared,
    )


def weights(spec: ModelSpec) -> Sources:
    up = ("wi_0", "wi_1") if spec.gated_mlp else ("wi",)
    encoder = WeightNames(
        embedding="shared",
        head_otherwise="shared",
        layer="encoder.block.{}.layer",
        input_norm="0.layer_norm",
        qkv=("0.SelfAttention.q", "0.SelfAttention.k", "0.SelfAttention.v"),
        output="0.SelfAttention.o",
        relative_bias="encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
        post_norm="1.layer_norm",
        up=tuple(f"1.DenseReluDense.{name}" for name in up),
        down="1.DenseReluDense.wo",
        final_norm="encoder.final_layer_norm",
    )
    decoder = replace(
        encoder,
        layer="decoder.block.{}.layer",
        relative_bias="decoder.block.0.layer.0.SelfAttention.relative_attention_bias",
        cross_norm="1.layer_norm",
        cross_q="1.EncDecAttention.q",
        cross_kv=("1.EncDecAttention.k", "1.EncDecAttention.v"),
        cross_output="1.EncDecAttention.o",
        post_norm="2.layer_norm",
        up=tuple(f"2.DenseReluDense.{name}" for name in up),
        down="2.DenseReluDense.wo",
        final_norm="decoder.final_layer_norm",
    )
    return decoder_weights(spec, decoder) | encoder_weights(spec, encoder)
