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
from nimlite.quant.awq import awq
from nimlite.quant.gptq import gptq, hessian
from nimlite.quant.rounded import RoundedMatrix
from nimlite.quant.rtn import group_size_for, nearest_int8
from nimlite.quant.smoothquant import smoothing_factors

CALIBRATED = frozenset({Precision.INT8_SQ, Precision.INT4_AWQ, Precision.INT4_GPTQ})
"""Those that measure activations."""


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
        case Precision.INT4_AWQ:
            return _awq(checkpoint, spec, texts, device)
        case Precision.INT4_GPTQ:
            return _gptq(checkpoint, spec, texts, device)
        case _:
            return AS_IT_IS


def _nearest_int8(name: str, weight_NC: torch.Tensor) -> RoundedMatrix:
    return nearest_int8(weight_NC)


def _smoothing(
    checkpoint: Checkpoint, spec: ModelSpec, texts: Sequence[Sequence[int]], device: torch.device
) -> dict[str, torch.Tensor]:
    """SmoothQuant's factors for every linear behind a norm, and their inverse for the norm."""
    factors: dict[str, torch.Tensor] = {}

    def measure(name: str, x_TC: torch.Tensor, weight_NC: torch.Tensor) -> None:
        if inputs := spec.inputs_of(name):
            factors_C = smoothing_factors(weight_NC, x_TC)
            factors[name] = factors_C
            factors.update(dict.fromkeys(inputs, 1.0 / factors_C))

    calibrate(checkpoint, spec, texts, measure, device)
    return factors


def _awq(
    checkpoint: Checkpoint, spec: ModelSpec, texts: Sequence[Sequence[int]], device: torch.device
) -> Recipe:
    """Linears behind a norm are scaled and clipped, the others clipped."""
    factors: dict[str, torch.Tensor] = {}
    matrices: dict[str, RoundedMatrix] = {}

    def measure(name: str, x_TC: torch.Tensor, weight_NC: torch.Tensor) -> None:
        inputs = spec.inputs_of(name)
        mean_C = x_TC.abs().mean(dim=0)
        group_size = group_size_for(len(mean_C))
        # equal means: nothing before it can take scales
        means_C = mean_C if inputs else torch.ones_like(mean_C)
        found = awq([weight_NC], x_TC, means_C, group_size=group_size)
        factors.update(dict.fromkeys(inputs, 1.0 / found.scales_C))
        (matrices[name],) = found.matrices

    calibrate(checkpoint, spec, texts, measure, device)
    return Recipe(factors=factors, quantizer=lambda name, _: matrices[name])


def _gptq(
    checkpoint: Checkpoint, spec: ModelSpec, texts: Sequence[Sequence[int]], device: torch.device
) -> Recipe:
    matrices: dict[str, RoundedMatrix] = {}

    def measure(name: str, x_TC: torch.Tensor, weight_NC: torch.Tensor) -> None:
        group_size = group_size_for(weight_NC.shape[1])
        matrices[name] = gptq(weight_NC, hessian(x_TC), group_size=group_size)

    calibrate(checkpoint, spec, texts, measure, device)
    return Recipe(quantizer=lambda name, _: matrices[name])
