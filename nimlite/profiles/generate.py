"""A manifest for a model that has none: any Hugging Face directory, GGUF file or hf:// name."""

from nimlite.models.spec import ModelSpec
from nimlite.profiles.manifest import Artifact, Device, Manifest, Precision, Profile

_SPEEDS = {Precision.INT4: 4.1, Precision.INT8: 3.2, Precision.BF16: 1.9, Precision.FP32: 1.0}
"""Relative speed on the CPU, as in profiles/smollm2-135m.yaml."""
_MAX_MODEL_LEN = 8192
_KV_CACHE_BYTES = 512 << 20


def generate_manifest(family: str, spec: ModelSpec, artifact: Artifact) -> Manifest:
    """The CPU profiles of a model of shape `spec`; `family` is its name in the API, too."""
    return Manifest(
        family=family,
        display_name=family,
        served_name=family,
        license="unknown",
        artifact=artifact,
        spec=spec,
        profiles=tuple(_cpu_profile(family, spec, precision) for precision in _SPEEDS),
    )


def _cpu_profile(family: str, spec: ModelSpec, precision: Precision) -> Profile:
    return Profile(
        id="",
        family=family,
        device=Device.CPU,
        precision=precision,
        kv_precision=Precision.FP32 if precision is Precision.FP32 else Precision.BF16,
        max_model_len=min(spec.max_positions, _MAX_MODEL_LEN),
        max_batch_size=64,
        max_num_tokens=512,
        block_size=16,
        kv_cache_bytes=_KV_CACHE_BYTES,
        relative_speed=_SPEEDS[precision],
    ).identified()
