"""MPNet: BERT without token types, and with learned values for distances. For embeddings."""

from dataclasses import replace

from nimlite.models.config import Config
from nimlite.models.families import bert
from nimlite.models.spec import ModelSpec, RelativeBias
from nimlite.models.weights import Sources

ARCHITECTURES = ("MPNetModel", "MPNetForMaskedLM")


def spec(config: Config) -> ModelSpec:
    buckets = config.get("relative_attention_num_buckets", 32)
    bias = RelativeBias(num_buckets=buckets, max_distance=128)
    return replace(bert.spec(config), token_types=0, relative_bias=bias)


def weights(spec: ModelSpec) -> Sources:
    return bert.encoder_weights(
        spec,
        "mpnet",
        qkv=tuple(f"attention.attn.{name}" for name in "qkv"),
        output="attention.attn.o",
        attention_out_norm="attention.LayerNorm",
        relative_bias="mpnet.encoder.relative_attention_bias",
    )
