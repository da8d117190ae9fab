"""Rotary parameters from a GGUF's metadata."""

import math
from collections.abc import Callable
from typing import Any

import torch

from nimlite.errors import ModelError


def rope_parameters(
    field: Callable[..., Any], factors: torch.Tensor | None, head_dim: int
) -> dict[str, Any]:
    """Hugging Face's `rope_parameters`. `factors`: the tensor rope_freqs.weight, where there is
    one.

    Raises ModelError for partial rotation and for scaling that is not supported.
    """
    theta = field("llama.rope.freq_base", 10_000.0)
    if (rotated := field("llama.rope.dimension_count", head_dim)) != head_dim:
        raise ModelError(f"The GGUF rotates {rotated} of {head_dim} dimensions: not supported.")
    if factors is not None:
        return {"rope_theta": theta, **_llama3(factors, theta, head_dim)}
    kind = field("llama.rope.scaling.type", "none")
    if kind == "none":
        return {"rope_theta": theta, "rope_type": "default"}
    if kind == "linear":
        factor = field("llama.rope.scaling.factor")
        return {"rope_theta": theta, "rope_type": "linear", "factor": factor}
    raise ModelError(f"The GGUF's RoPE scaling {kind!r} is not supported; supported: none, linear.")


def _llama3(factors: torch.Tensor, theta: float, head_dim: int) -> dict[str, Any]:
    """Llama 3.1's scaling. A GGUF holds only the divisors it leads to: find the parameters that
    give them."""
    low, high, original, factor = 1.0, 4.0, 8192, float(factors.max())
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    wavelengths = 2 * math.pi * theta**exponents
    blend = ((original / wavelengths - low) / (high - low)).clamp(0.0, 1.0)
    if not torch.allclose(factors, 1 / (blend + (1 - blend) / factor), rtol=1e-3):
        raise ModelError(
            "The GGUF's rope_freqs.weight is not Llama 3.1's scaling: give the Hugging Face"
            " checkpoint."
        )
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }
