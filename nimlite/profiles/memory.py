"""How many bytes a profile takes. Pure arithmetic on shapes; per device, and on the CPU in RAM."""

import math
from dataclasses import dataclass

from nimlite.models.spec import ModelSpec
from nimlite.profiles.manifest import Device, Precision, Profile
from nimlite.settings import Settings

_GROUP = 32
_WEIGHT_BYTES = {
    Precision.FP32: 4.0,
    Precision.BF16: 2.0,
    Precision.INT8: 1 + 2 / _GROUP,
    Precision.INT4: 0.5 + 4 / _GROUP,
}
"""Bytes a weight; the integers share an fp16 scale (int4: and a minimum) in groups of 32."""
_KV_BYTES = {Precision.FP32: 4.0, Precision.BF16: 2.0}
_RUNTIME_BYTES = {Device.CPU: 384 << 20, Device.GPU: 768 << 20}
"""Python and torch with their libraries; on a GPU the CUDA context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much at once: the profile's figures, or what the user set in their place."""

    max_model_len: int
    max_batch_size: int
    max_num_tokens: int
    block_size: int

    @classmethod
    def of(cls, profile: Profile, settings: Settings) -> "Limits":
        return cls(
            max_model_len=settings.max_model_len or profile.max_model_len,
            max_batch_size=settings.max_batch_size or profile.max_batch_size,
            max_num_tokens=settings.max_num_tokens or profile.max_num_tokens,
            block_size=profile.block_size,
        )


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


def plan_memory(
    spec: ModelSpec, profile: Profile, limits: Limits, budget: int, kv_wish: int | None
) -> MemoryPlan:
    """Split `budget`: the KV pool gets what the rest leaves, but not more than `kv_wish`."""
    block = kv_block_bytes(spec, profile)
    weights = weight_bytes(spec, profile)
    activations = activation_bytes(spec, limits)
    runtime = _RUNTIME_BYTES[profile.device]
    minimum = math.ceil(limits.max_model_len / limits.block_size) * block
    left = budget - weights - activations - runtime
    pool = left if kv_wish is None else min(left, max(kv_wish, minimum))
    return MemoryPlan(
        weights=weights,
        activations=activations,
        runtime=runtime,
        kv_minimum=minimum,
        kv_cache=max(0, pool // block * block),
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


def activation_bytes(spec: ModelSpec, limits: Limits) -> int:
    """The widest tensors of a step, in fp32: a layer's for every token, and logits twice (the
    sampler works on a copy) for every sequence."""
    attention = spec.qkv_size + spec.num_heads * spec.head_dim
    per_token = 4 * spec.hidden_size + attention + 3 * spec.intermediate_size
    return 4 * (limits.max_num_tokens * per_token + 2 * limits.max_batch_size * spec.vocab_size)
