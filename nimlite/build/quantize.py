"""The recipe of every precision: which quantizer, and what is measured for it."""

from collections.abc import Sequence

import torch

from nimlite.build.calibration import calibrate
from nimlite.build.checkpoint import Checkpoint
from nimlite.build.published_recipe import published_recipe
from nimlite.build.recipe import AS_IT_IS, Recipe
from nimlite.build.staging import CPU
from nimlite.models.spec import ModelSpec
from nimlite.profiles.manifest import Precision
from nimlite.quant.rounded import RoundedMatrix
from nimlite.quant.rtn import nearest_int8
from nimlite.quant.smoothquant import smoothing_factors

CALIBRATED = frozenset({Precision.INT8_SQ})
"""Those that measure activations."""
_SMOOTHED = {"qkv": "input_norm", "gate_up": "post_norm"}
"""The linears behind a norm, which takes the inverse of their factors."""


def recipe_for(
    precision: Precision,
    checkpoint: Checkpoint,
    spec: ModelSpec,
    texts: Sequence[Sequence[int]],
    device: torch.device = CPU,
) -> Recipe:
    """The recipe of a precision. `texts`: token ids that activations are measured on, where the
    precision needs them. Raises ModelError where a tensor can't be read."""
    if (published := published_recipe(precision, checkpoint, spec)) is not None:
        return published
    match precision:
        case Precision.INT8_WO:
            return Recipe(quantizer=_nearest_int8)
        case Precision.INT8_SQ:
            return Recipe(
                factors=_smoothing(checkpoint, spec, texts, device), quantizer=_nearest_int8
            )
        case _:
            return AS_IT_IS


def _nearest_int8(name: str, weight_NC: torch.Tensor) -> RoundedMatrix:
    return nearest_int8(weight_NC)


def _smoothing(
    checkpoint: Checkpoint, spec: ModelSpec, texts: Sequence[Sequence[int]], device: torch.device
) -> dict[str, torch.Tensor]:
    """SmoothQuant's factors for every linear behind a norm, and their inverse for the norm."""
    factors = {}

    def measure(name: str, x_TC: torch.Tensor, weight_NC: torch.Tensor) -> None:
        layer, _, linear = name.rpartition(".")
        if norm := _SMOOTHED.get(linear):
            factors_C = smoothing_factors(weight_NC, x_TC)
            factors[name] = factors_C
            factors[f"{layer}.{norm}"] = 1.0 / factors_C

    calibrate(checkpoint, spec, texts, measure, device)
    return factors
