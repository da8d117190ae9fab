"""A manifest for a model that has none: any Hugging Face directory, GGUF file or hf:// name."""

from collections.abc import Iterator
from itertools import product

from nimlite.profiles.manifest import Artifact, Device, Manifest, Precision, Profile
from nimlite.profiles.matrix import kv_precision
from nimlite.profiles.shape import ModelShape
from nimlite.settings import Goal

_CPU_PRECISIONS = (
    Precision.INT4,
    Precision.INT8,
    Precision.INT8_SQ,
    Precision.INT8_WO,
    Precision.INT4_AWQ,
    Precision.INT4_GPTQ,
    Precision.FP8,
    Precision.BF16,
    Precision.FP32,
)
_GPU_PRECISIONS = (
    Precision.FP8,
    Precision.BF16,
    Precision.FP16,
    Precision.INT8_SQ,
    Precision.INT8_WO,
    Precision.INT4_AWQ,
    Precision.INT4_GPTQ,
)
_CPU_MAX_MODEL_LEN = 8192
_CPU_KV_CACHE_BYTES = 512 << 20
_LIMITS = {Goal.LATENCY: (64, 2048), Goal.THROUGHPUT: (512, 8192)}
"""Sequences at once and tokens a step."""


def generate_manifest(
    family: str,
    shape: ModelShape,
    artifact: Artifact,
    checkpoint_precision: Precision = Precision.BF16,
) -> Manifest:
    """The profiles of a model of `shape`; `family` is its name in the API, too."""
    return Manifest(
        family=family,
        display_name=family,
        served_name=family,
        license="unknown",
        artifact=artifact,
        checkpoint_precision=checkpoint_precision,
        shape=shape,
        profiles=(*_gpu_profiles(family, shape), *_cpu_profiles(family, shape)),
    )


def _gpu_profiles(family: str, shape: ModelShape) -> Iterator[Profile]:
    sizes = [tp for tp in (1, 2, 4, 8) if shape.num_heads % tp == 0]
    for goal, precision, tp in product(_LIMITS, _GPU_PRECISIONS, sizes):
        max_batch_size, max_num_tokens = _LIMITS[goal]
        yield Profile(
            id="",
            family=family,
            device=Device.GPU,
            precision=precision,
            tp=tp,
            goal=goal,
            kv_precision=Precision(kv_precision(precision)),
            max_model_len=shape.max_positions,
            max_batch_size=max_batch_size,
            max_num_tokens=_step_tokens(shape, max_num_tokens, shape.max_positions),
            block_size=64,
        ).identified()


def _cpu_profiles(family: str, shape: ModelShape) -> Iterator[Profile]:
    max_model_len = min(shape.max_positions, _CPU_MAX_MODEL_LEN)
    for precision in _CPU_PRECISIONS:
        yield Profile(
            id="",
            family=family,
            device=Device.CPU,
            precision=precision,
            kv_precision=Precision.FP32 if precision is Precision.FP32 else Precision.BF16,
            max_model_len=max_model_len,
            max_batch_size=64,
            max_num_tokens=_step_tokens(shape, 512, max_model_len),
            block_size=16,
            kv_cache_bytes=_CPU_KV_CACHE_BYTES,
        ).identified()


def _step_tokens(shape: ModelShape, usual: int, max_model_len: int) -> int:
    """A text that must be computed whole has to fit into one step."""
    return usual if shape.causal and not shape.num_encoder_layers else max(usual, max_model_len)
