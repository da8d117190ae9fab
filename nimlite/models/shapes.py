"""The shapes of a checkpoint's tensors, by the last part of their Hugging Face names."""

from nimlite.models.spec import ModelSpec


def checkpoint_shape(spec: ModelSpec, name: str) -> tuple[int, ...]:
    """[output features, input features] of a linear's weight, [output features] of a norm or a
    bias."""
    module, kind = name.split(".")[-2:]
    queries, keys = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    shape = {
        "embed_tokens": (spec.vocab_size, spec.hidden_size),
        "lm_head": (spec.vocab_size, spec.hidden_size),
        "q_proj": (queries, spec.hidden_size),
        "k_proj": (keys, spec.hidden_size),
        "v_proj": (keys, spec.hidden_size),
        "o_proj": (spec.hidden_size, queries),
        "gate_proj": (spec.intermediate_size, spec.hidden_size),
        "up_proj": (spec.intermediate_size, spec.hidden_size),
        "down_proj": (spec.hidden_size, spec.intermediate_size),
    }.get(module, (spec.hidden_size,))
    return shape[:1] if kind == "bias" else shape
