"""Baichuan 1 and 2: a Llama with fused queries, keys and values; of 13B with ALiBi in place of
rotary positions, of version 2 with a head of unit rows
(https://huggingface.co/baichuan-inc/Baichuan2-13B-Base/blob/main/modeling_baichuan.py)."""

from nimlite.models.alibi import published_slopes
from nimlite.models.config import Config, decoder_spec
from nimlite.models.spec import ModelSpec
from nimlite.models.weights import Sources, WeightNames, decoder_weights

ARCHITECTURES = ("BaichuanForCausalLM", "BaiChuanForCausalLM")
_VOCAB_SIZE_2 = 125_696


def spec(config: Config) -> ModelSpec:
    if "max_position_embeddings" in config:
        return decoder_spec(config)
    return decoder_spec(
        config | {"max_position_embeddings": config["model_max_length"]},
        rope=None,
        alibi_slopes=published_slopes(config["num_attention_heads"]),
    )


def weights(spec: ModelSpec) -> Sources:
    names = WeightNames(qkv=("self_attn.W_pack",), unit_head=spec.vocab_size == _VOCAB_SIZE_2)
    return decoder_weights(spec, names)
