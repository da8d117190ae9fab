"""How large an engine's static buffers are: those of a step, and the pool of keys and values."""

import torch

from nimlite.engine.batch import BatchLimits
from nimlite.kernels.base import KVLayout
from nimlite.layers.shard import WHOLE, Shard
from nimlite.models.spec import ModelSpec
from nimlite.profiles.manifest import Precision, Profile

LOGIT_ROWS = 64
"""Prompt positions a step whose logits are computed for `prompt_logprobs`."""
_KV_DTYPES = {
    Precision.FP32: torch.float32,
    Precision.BF16: torch.bfloat16,
    Precision.FP16: torch.float16,
    Precision.FP8: torch.float8_e4m3fn,
}


def batch_limits(profile: Profile, *, has_encoder: bool = False) -> BatchLimits:
    """The largest step of a profile."""
    max_blocks = -(-profile.max_model_len // profile.block_size)
    return BatchLimits(
        max_tokens=profile.max_num_tokens,
        max_sequences=profile.max_batch_size,
        max_logit_rows=profile.max_batch_size + LOGIT_ROWS,
        max_blocks=max_blocks,
        block_size=profile.block_size,
        max_source_blocks=max_blocks if has_encoder else 0,
    )


def kv_layout(spec: ModelSpec, profile: Profile, shard: Shard = WHOLE) -> KVLayout:
    """The rank's part of the pool that the profile's bytes a device pay for. All ranks have as many
    blocks as the one whose blocks are largest."""
    assert profile.kv_cache_bytes is not None, "the selection decides the size of the pool"
    dtype = _KV_DTYPES[profile.kv_precision]
    stages = (Shard(stage=stage, stages=shard.stages) for stage in range(shard.stages))
    most_layers = max(len(stage.layers(spec.num_layers)) for stage in stages)
    most_heads = -(-spec.num_kv_heads // shard.world)
    most_layers = min(most_layers, spec.num_kv_layers)
    a_token = 2 * most_layers * most_heads * spec.head_dim * dtype.itemsize
    num_blocks = int(profile.kv_cache_bytes // (a_token * profile.block_size))
    if not spec.causal:  # nothing outlives a step
        longest = max(profile.max_num_tokens, profile.max_model_len)
        num_blocks = min(num_blocks, longest // profile.block_size + profile.max_batch_size)
    return KVLayout(
        num_blocks=num_blocks,
        block_size=profile.block_size,
        num_kv_heads=len(shard.kv_heads(spec.num_kv_heads)),
        head_dim=spec.head_dim,
        dtype=dtype,
    )
