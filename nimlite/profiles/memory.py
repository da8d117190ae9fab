"""How many bytes a profile takes. Pure arithmetic on shapes; per device, and on the CPU in RAM."""

import math
from dataclasses import dataclass

from nimlite.models.spec import ModelSpec
from nimlite.profiles.manifest import Device, Precision, Profile

_GROUP = 32
_WEIGHT_BYTES = {
    Precision.FP32: 4.0,
    Precision.BF16: 2.0,
    Precision.FP8: 1.0,
    Precision.INT8: 1 + 2 / _GROUP,
    Precision.INT4: 0.5 + 4 / _GROUP,
}
"""Bytes a weight; the integers share an fp16 scale (int4: and a minimum) in groups of 32."""
_KV_BYTES = {Precision.FP32: 4.0, Precision.BF16: 2.0, Precision.FP8: 1.0}
_RUNTIME_BYTES = {Device.CPU: 384 << 20, Device.GPU: 768 << 20}
"""Python and torch with their libraries; on a GPU the CUDA context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """What goes where, in bytes a device."""

    weights: int
    activations: int
    """Buffers of one step at its largest."""
    runtime: int
    kv_minimum: int
    """Keys and values of one request of full length: with less the engine can't start."""
    kv_cache: int
    """The pool that the engine will make: a whole number of blocks."""
    budget: int
    """What all of it may take together."""

    @property
    def needed(self) -> int:
        """The least that the profile runs in."""
        return self.weights + self.activations + self.runtime + self.kv_minimum

    @property
    def fits(self) -> bool:
        return self.needed <= self.budget


def plan_memory(spec: ModelSpec, profile: Profile, budget: int) -> MemoryPlan:
    """Split `budget`: the KV pool gets what the rest leaves, but not more than the profile wants
    (or one request of full length needs)."""
    block = kv_block_bytes(spec, profile)
    weights = weight_bytes(spec, profile)
    activations = activation_bytes(spec, profile)
    runtime = _RUNTIME_BYTES[profile.device]
    minimum = math.ceil(profile.max_model_len / profile.block_size) * block
    left = budget - weights - activations - runtime
    wanted = left if profile.kv_cache_bytes is None else max(profile.kv_cache_bytes, minimum)
    return MemoryPlan(
        weights=weights,
        activations=activations,
        runtime=runtime,
        kv_minimum=minimum,
        kv_cache=max(0, min(left, wanted) // block * block),
        budget=budget,
    )


def longest_context(spec: ModelSpec, profile: Profile, plan: MemoryPlan) -> int:
    """The largest max_model_len that `plan.budget` would hold, in whole blocks; 0 if none."""
    left = plan.budget - plan.weights - plan.activations - plan.runtime
    return max(0, left // kv_block_bytes(spec, profile) * profile.block_size)


def weight_bytes(spec: ModelSpec, profile: Profile) -> int:
    """Weights of one rank. An int4 profile holds its embedding and head in int8."""
    embeddings = spec.vocab_size * spec.hidden_size * (1 if spec.tie_embeddings else 2)
    layers = spec.num_parameters - embeddings
    outer = Precision.INT8 if profile.precision is Precision.INT4 else profile.precision
    total = layers * _WEIGHT_BYTES[profile.precision] + embeddings * _WEIGHT_BYTES[outer]
    return math.ceil(total / (profile.tp * profile.pp))


def kv_block_bytes(spec: ModelSpec, profile: Profile) -> int:
    """Keys and values of one block on one rank."""
    per_token = spec.kv_bytes_per_token(_KV_BYTES[profile.kv_precision])
    return math.ceil(per_token * profile.block_size / (profile.tp * profile.pp))


def activation_bytes(spec: ModelSpec, profile: Profile) -> int:
    """The widest tensors of a step, in fp32: a layer's for every token, and logits twice (the
    sampler works on a copy) for every sequence."""
    attention = spec.qkv_size + spec.num_heads * spec.head_dim
    per_token = 4 * spec.hidden_size + attention + 3 * spec.intermediate_size
    return 4 * (profile.max_num_tokens * per_token + 2 * profile.max_batch_size * spec.vocab_size)
