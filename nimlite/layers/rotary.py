"""Rotary position embedding: the table of cosines and sines (Su et al., 2021, arXiv:2104.09864)."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from nimlite.errors import ModelError
from nimlite.models.spec import RopeSpec


def cos_sin_table(rope: RopeSpec, head_dim: int, max_positions: int) -> torch.Tensor:
    """fp32 [max_positions, head_dim]: row p holds head_dim/2 cosines, then head_dim/2 sines of
    position p.

    Raises ModelError for a kind of scaling that is not supported.
    """
    # In fp32 throughout, as transformers computes them: equal logits need equal angles.
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    frequencies = 1.0 / rope.theta**exponents
    kind = rope.scaling.get("rope_type", rope.scaling.get("type", "default"))
    if kind not in _SCALINGS:
        raise ModelError(
            f"RoPE scaling {kind!r} is not supported; supported are {', '.join(sorted(_SCALINGS))}."
        )
    frequencies = _SCALINGS[kind](frequencies, rope.scaling)
    angles = torch.outer(torch.arange(max_positions, dtype=torch.float32), frequencies)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def _unscaled(frequencies: torch.Tensor, scaling: Mapping[str, Any]) -> torch.Tensor:
    return frequencies


def _linear(frequencies: torch.Tensor, scaling: Mapping[str, Any]) -> torch.Tensor:
    return frequencies / float(scaling["factor"])


def _llama3(frequencies: torch.Tensor, scaling: Mapping[str, Any]) -> torch.Tensor:
    """Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, those between
    blended."""
    factor, original = float(scaling["factor"]), scaling["original_max_position_embeddings"]
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    wavelengths = 2 * math.pi / frequencies
    blend = ((original / wavelengths - low) / (high - low)).clamp(0.0, 1.0)
    scaled: torch.Tensor = frequencies / factor * (1 - blend) + frequencies * blend
    return scaled


_SCALINGS = {"default": _unscaled, "linear": _linear, "llama3": _llama3}
