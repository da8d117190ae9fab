"""Rotary position embedding: the table of cosines and sines (Su et al., 2021, arXiv:2104.09864)."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from nimlite.errors import ModelError
from nimlite.models.spec import ModelSpec, RopeSpec


def layer_tables(
    spec: ModelSpec, max_model_len: int | None, device: torch.device
) -> tuple[torch.Tensor | None, ...]:
    """By layer, its table for every position of the model; layers of one kind share one. None:
    nothing turns. Arguments and errors as for `cos_sin_table`."""

    def table(rope: RopeSpec | None) -> torch.Tensor | None:
        if rope is None:
            return None
        return cos_sin_table(rope, spec.head_dim, spec.max_positions, max_model_len).to(device)

    common, local = table(spec.rope), table(spec.local_rope)
    kinds = (spec.rope_of(i) for i in range(spec.num_layers))
    return tuple(common if kind is spec.rope else local for kind in kinds)


def cos_sin_table(
    rope: RopeSpec, head_dim: int, max_positions: int, max_model_len: int | None = None
) -> torch.Tensor:
    """fp32 [max_positions, R]: row p holds R/2 cosines, then R/2 sines of position p, where R is
    `rope.dim` or a whole head.

    `max_model_len`: as long as a text may be where the model is served, on which dynamic NTK and
    LongRoPE depend; None: `max_positions`. Raises ModelError for a kind of scaling that is not
    supported.
    """
    # In fp32 throughout, as transformers computes them: equal logits need equal angles.
    dim = rope.dim or head_dim
    exponents = torch.arange(0, dim, 2, dtype=torch.float32) / dim
    kind = rope.scaling.get("rope_type", rope.scaling.get("type", "default"))
    if kind not in _SCALINGS:
        raise ModelError(
            f"RoPE scaling {kind!r} is not supported; supported are {', '.join(sorted(_SCALINGS))}."
        )
    length = max_positions if max_model_len is None else max_model_len
    turned = _SCALINGS[kind](_Turns(rope.theta, exponents, rope.scaling, length))
    angles = torch.outer(torch.arange(max_positions, dtype=torch.float32), turned.frequencies)
    return torch.cat([angles.cos(), angles.sin()], dim=1) * turned.factor


@dataclass(frozen=True, slots=True)
class _Turns:
    """What a kind of scaling starts from."""

    theta: float
    exponents: torch.Tensor
    scaling: Mapping[str, Any]
    max_model_len: int

    @property
    def frequencies(self) -> torch.Tensor:
        """Unscaled."""
        return 1.0 / self.theta**self.exponents

    @property
    def stretch(self) -> float:
        return float(self.scaling["factor"])

    @property
    def original(self) -> int:
        """Positions that the model was first trained on."""
        return int(self.scaling["original_max_position_embeddings"])


@dataclass(frozen=True, slots=True)
class _Scaled:
    frequencies: torch.Tensor
    factor: float = 1.0
    """On cosines and sines."""


def _unscaled(turns: _Turns) -> _Scaled:
    return _Scaled(turns.frequencies)


def _linear(turns: _Turns) -> _Scaled:
    return _Scaled(turns.frequencies / turns.stretch)


def _dynamic(turns: _Turns) -> _Scaled:
    """NTK-aware: theta grows with the longest text (r/LocalLLaMA, 2023: bloc97, emozilla)."""
    length = max(turns.max_model_len, turns.original)
    growth = turns.stretch * length / turns.original - (turns.stretch - 1)
    dim = 2 * len(turns.exponents)
    return _Scaled(1.0 / (turns.theta * growth ** (dim / (dim - 2))) ** turns.exponents)


def _llama3(turns: _Turns) -> _Scaled:
    """Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, those between
    blended."""
    low, high = float(turns.scaling["low_freq_factor"]), float(turns.scaling["high_freq_factor"])
    wavelengths = 2 * math.pi / turns.frequencies
    blend = ((turns.original / wavelengths - low) / (high - low)).clamp(0.0, 1.0)
    return _Scaled(turns.frequencies / turns.stretch * (1 - blend) + turns.frequencies * blend)


def _yarn(turns: _Turns) -> _Scaled:
    """By how often a pair turns within the original length, blended as for llama3, and the scores
    sharpened (Peng et al., 2023, arXiv:2309.00071)."""
    given, dim = turns.scaling, 2 * len(turns.exponents)

    def pair(rotations: float) -> float:
        """The pair that turns so often."""
        turned = turns.original / (rotations * 2 * math.pi)
        return dim * math.log(turned) / (2 * math.log(turns.theta))

    low, high = pair(given.get("beta_fast") or 32), pair(given.get("beta_slow") or 1)
    if given.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    pairs = torch.arange(dim // 2, dtype=torch.float32)
    stretched = ((pairs - low) / max(high - low, 0.001)).clamp(0.0, 1.0)
    frequencies = turns.frequencies / turns.stretch * stretched + turns.frequencies * (
        1 - stretched
    )
    return _Scaled(frequencies, _yarn_factor(given, turns.stretch))


def _yarn_factor(given: Mapping[str, Any], stretch: float) -> float:
    def sharpened(scale: float) -> float:
        return 0.1 * scale * math.log(stretch) + 1.0 if stretch > 1 else 1.0

    if given.get("attention_factor") is not None:
        return float(given["attention_factor"])
    if given.get("mscale") and given.get("mscale_all_dim"):
        return sharpened(given["mscale"]) / sharpened(given["mscale_all_dim"])
    return sharpened(1.0)


def _longrope(turns: _Turns) -> _Scaled:
    """A divisor for every pair, found by search: one set up to the original length, one beyond
    (Ding et al., 2024, arXiv:2402.13753). The longest text decides for all."""
    given = turns.scaling
    divisors = given["long_factor" if turns.max_model_len > turns.original else "short_factor"]
    factor = given.get("attention_factor")
    if factor is None:
        grown = math.log(turns.stretch) / math.log(turns.original) if turns.stretch > 1 else 0.0
        factor = math.sqrt(1 + grown)
    rates = torch.tensor(divisors, dtype=torch.float32) * turns.theta**turns.exponents
    return _Scaled(1.0 / rates, float(factor))


_SCALINGS: Mapping[str, Callable[[_Turns], _Scaled]] = {
    "default": _unscaled,
    "dynamic": _dynamic,
    "linear": _linear,
    "llama3": _llama3,
    "longrope": _longrope,
    "su": _longrope,
    "yarn": _yarn,
}
