"""The recipe of every precision: which quantizer, and what is measured for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from nimlite.build.calibration import Measure, calibrate, calibrate_beside_exact
from nimlite.build.checkpoint import Checkpoint
from nimlite.build.published_recipe import published_recipe
from nimlite.build.recipe import AS_IT_IS, Recipe
from nimlite.build.staging import CPU
from nimlite.models.spec import ModelSpec
from nimlite.profiles.manifest import Precision
from nimlite.quant.asymmetric import corrected, drift
from nimlite.quant.awq import awq
from nimlite.quant.fp8 import static_input_scale
from nimlite.quant.gptq import gptq, hessian
from nimlite.quant.grid import Grid, fitted_int4_grid, fp8_grid, int8_grid
from nimlite.quant.rounded import RoundedMatrix
from nimlite.quant.rtn import (
    GROUP_SIZE,
    group_size_for,
    nearest_fp8,
    nearest_int4,
    nearest_int8,
)
from nimlite.quant.smoothquant import smoothing_factors

_ALWAYS_CALIBRATED = frozenset({Precision.INT8_SQ, Precision.INT4_AWQ, Precision.INT4_GPTQ})
CALIBRATED = _ALWAYS_CALIBRATED | {Precision.FP8, Precision.INT8_WO}
"""Those that can measure activations."""
_SMALL = 1_000_000_000
"""Parameters below which a model is treated with more care, which takes it little memory and time:
8 bits are calibrated too, and groups of 4 bits are small. Rounding each weight to the nearest e4m3
costs SmolLM2-135M 4 % of perplexity, and to 4 bits 50 %."""
_SMALL_GROUP = 32
"""Of input features. The CPU's format has no larger ones anyway."""


def is_calibrated(precision: Precision, spec: ModelSpec) -> bool:
    """Whether activations are measured for it where nobody asks."""
    return precision in (CALIBRATED if _is_small(spec) else _ALWAYS_CALIBRATED)


def largest_int4_group(spec: ModelSpec) -> int:
    """Of neighbours in a row that share a scale, where so many divide it."""
    return _SMALL_GROUP if _is_small(spec) else GROUP_SIZE


def _is_small(spec: ModelSpec) -> bool:
    return spec.num_parameters < _SMALL


def recipe_for(
    precision: Precision,
    checkpoint: Checkpoint,
    spec: ModelSpec,
    texts: Sequence[Sequence[int]],
    device: torch.device = CPU,
    *,
    static_inputs: bool = False,
) -> Recipe:
    """The recipe of a precision. `texts`: token ids that activations are measured on; where there
    are none, 8 bits are rounded to nearest. `static_inputs`: fp8 activations are rounded with a
    scale that is fixed by the texts, instead of one a row.

    Raises ModelError where a tensor can't be read.
    """
    if (published := published_recipe(precision, checkpoint, spec)) is not None:
        return published
    calibration = _Calibration(checkpoint, spec, texts, device)
    match precision:
        case Precision.INT8_WO:
            if not texts:
                return Recipe(quantizer=_nearest_int8)
            return calibration.gptq(lambda weight_NC, _: int8_grid(weight_NC))
        case Precision.FP8:
            if not texts:
                return AS_IT_IS
            return calibration.gptq(
                lambda weight_NC, _: fp8_grid(weight_NC),
                kept=_kept_in_fp8(spec),
                static_inputs=static_inputs,
            )
        case Precision.INT8_SQ:
            return calibration.smoothquant()
        case Precision.INT4_AWQ:
            return calibration.awq()
        case Precision.INT4_GPTQ:
            return calibration.gptq(calibration.int4_grid)
        case _:
            return AS_IT_IS


def nearest_recipe(precision: Precision, spec: ModelSpec) -> Recipe | None:
    """Plain rounding to nearest at the bits and groups of a precision: what calibration must beat.
    None where nothing is rounded but by a device's format."""
    match precision:
        case Precision.FP8:
            return Recipe(
                quantizer=lambda _, weight_NC: nearest_fp8(weight_NC), kept=_kept_in_fp8(spec)
            )
        case Precision.INT8_SQ | Precision.INT8_WO:
            return Recipe(quantizer=_nearest_int8)
        case Precision.INT4_AWQ | Precision.INT4_GPTQ:
            return Recipe(
                quantizer=lambda _, weight_NC: nearest_int4(
                    weight_NC, group_size=_group_size(spec, weight_NC.shape[1])
                )
            )
        case _:
            return None


def _kept_in_fp8(spec: ModelSpec) -> frozenset[str]:
    """Linears of a small model that stay in 16 bits: those of attention, and all of the first and
    the last layer where there are others. Meta did so for Llama 3 405B (https://arxiv.org/abs/
    2407.21783, section 6.2). Rounding activations to three bits of mantissa alone costs
    SmolLM2-135M 1.4 % of perplexity where nothing is kept."""
    if not _is_small(spec):
        return frozenset()
    layers = range(spec.num_layers)
    kept = {f"layers.{i}.{linear}" for i in layers for linear in ("qkv", "output")}
    if spec.num_layers > 2:
        outer = (0, spec.num_layers - 1)
        kept |= {f"layers.{i}.{linear}" for i in outer for linear in (spec.up_name, "down")}
    return frozenset(kept)


def _group_size(spec: ModelSpec, num_columns: int) -> int:
    return min(group_size_for(num_columns), largest_int4_group(spec))


def _nearest_int8(name: str, weight_NC: torch.Tensor) -> RoundedMatrix:
    return nearest_int8(weight_NC)


_MakeGrid = Callable[[torch.Tensor, torch.Tensor], Grid]
"""Of a weight and its Hessian."""
_Measure = Callable[[str, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Called with a linear's name, its input x_TC, its weight_NC and its Hessian, gives what the weight
is rounded to."""


@dataclass(frozen=True, slots=True)
class _Calibration:
    """A model and texts. Each linear is measured on what the rounded ones before it give."""

    checkpoint: Checkpoint
    spec: ModelSpec
    texts: Sequence[Sequence[int]]
    device: torch.device

    def int4_grid(self, weight_NC: torch.Tensor, hessian_CC: torch.Tensor) -> Grid:
        group_size = _group_size(self.spec, weight_NC.shape[1])
        return fitted_int4_grid(weight_NC, hessian_CC.diagonal(), group_size=group_size)

    def run(self, measure: Measure) -> None:
        calibrate(self.checkpoint, self.spec, self.texts, measure, self.device)

    def run_corrected(self, measure: _Measure, kept: frozenset[str] = frozenset()) -> None:
        """Each linear but those kept is measured with the weight that makes up for the errors of
        the rounded ones before it."""

        def measure_beside(
            name: str, x_TC: torch.Tensor, exact_TC: torch.Tensor, weight_NC: torch.Tensor
        ) -> torch.Tensor:
            if name in kept:
                return weight_NC
            hessian_CC = hessian(x_TC)
            weight_NC = corrected(weight_NC, hessian_CC, drift(x_TC, exact_TC))
            return measure(name, x_TC, weight_NC, hessian_CC)

        calibrate_beside_exact(self.checkpoint, self.spec, self.texts, measure_beside, self.device)

    def gptq(
        self, grid: _MakeGrid, *, kept: frozenset[str] = frozenset(), static_inputs: bool = False
    ) -> Recipe:
        """`kept`: the linears that are not rounded."""
        matrices: dict[str, RoundedMatrix] = {}

        def measure(
            name: str, x_TC: torch.Tensor, weight_NC: torch.Tensor, hessian_CC: torch.Tensor
        ) -> torch.Tensor:
            rounded = gptq(weight_NC, hessian_CC, grid(weight_NC, hessian_CC))
            scale = static_input_scale(x_TC) if static_inputs else None
            matrices[name] = replace(rounded, input_scale=scale)
            return rounded.dequantized()

        self.run_corrected(measure, kept)
        return Recipe(quantizer=lambda name, _: matrices.get(name), kept=kept)

    def smoothquant(self) -> Recipe:
        """Factors for every linear behind a norm, and their inverse for the norm. Smoothed weights
        of a small model are rounded as GPTQ does."""
        factors: dict[str, torch.Tensor] = {}
        matrices: dict[str, RoundedMatrix] = {}
        is_small = _is_small(self.spec)

        def measure(name: str, x_TC: torch.Tensor, weight_NC: torch.Tensor) -> torch.Tensor | None:
            factors_C = torch.ones_like(weight_NC[0])
            if inputs := self.spec.inputs_of(name):
                factors_C = factors[name] = smoothing_factors(weight_NC, x_TC)
                factors.update(dict.fromkeys(inputs, 1.0 / factors_C))
            if not is_small:
                return None
            smooth_NC = weight_NC * factors_C
            matrices[name] = gptq(smooth_NC, hessian(x_TC / factors_C), int8_grid(smooth_NC))
            return matrices[name].dequantized() / factors_C

        self.run(measure)
        quantizer = (lambda name, _: matrices.get(name)) if is_small else _nearest_int8
        return Recipe(factors=factors, quantizer=quantizer)

    def awq(self) -> Recipe:
        """What makes a linear's input takes the inverse of its scales: the norm before it, the
        value rows of `qkv`, the up rows beside a gate. Scaled weights of a small model are rounded
        as GPTQ does."""
        is_small = _is_small(self.spec)
        factors: dict[str, torch.Tensor] = {}
        matrices: dict[str, RoundedMatrix] = {}

        def measure(
            name: str, x_TC: torch.Tensor, weight_NC: torch.Tensor, hessian_CC: torch.Tensor
        ) -> torch.Tensor:
            group_size = _group_size(self.spec, weight_NC.shape[1])
            means_C = self._means(name, x_TC)
            found = awq([weight_NC], x_TC, means_C, group_size=group_size, clip=not is_small)
            (matrices[name],) = found.matrices
            inverse_C = 1.0 / found.scales_C
            if is_small:
                scaled_NC = weight_NC * found.scales_C
                scaled_CC = hessian_CC * torch.outer(inverse_C, inverse_C)
                grid = self.int4_grid(scaled_NC, scaled_CC)
                matrices[name] = gptq(scaled_NC, scaled_CC, grid)
            factors.update(dict.fromkeys(self.spec.inputs_of(name), inverse_C))
            if rows := self._rows_before(name):
                factors_R = self._by_value_head(inverse_C) if _is_output(name) else inverse_C
                matrices[rows] = _with_last_rows_scaled(matrices[rows], factors_R)
            return matrices[name].dequantized() * inverse_C

        self.run_corrected(measure)
        return Recipe(factors=factors, quantizer=lambda name, _: matrices.get(name))

    def _means(self, name: str, x_TC: torch.Tensor) -> torch.Tensor:
        """Of |x|, equal among features that need equal scales: those that one feature of a value
        head becomes in several query heads, and all where nothing before them can take scales."""
        mean_C = x_TC.abs().mean(dim=0)
        rows = self._rows_before(name)
        if not rows and not self.spec.inputs_of(name):
            return torch.ones_like(mean_C)
        if rows and _is_output(name):
            heads_GHK = mean_C.reshape(self.spec.num_kv_heads, -1, self.spec.head_dim)
            return heads_GHK.mean(1, keepdim=True).expand_as(heads_GHK).flatten()
        return mean_C

    def _rows_before(self, name: str) -> str | None:
        """The tensor whose last rows make the input of `name`, one or (a value head's) several
        features each. None where there are none, or where what they make is changed on its way."""
        layer, _, linear = name.rpartition(".")
        spec = self.spec
        if linear == "output" and not spec.qkv_bias and not spec.clip_qkv:
            return f"{layer}.qkv"
        if linear == "down" and spec.gated_mlp and not spec.mlp_bias:
            return f"{layer}.{spec.up_name}"
        return None

    def _by_value_head(self, features_C: torch.Tensor) -> torch.Tensor:
        """Of the first query head that reads each value head."""
        heads_GHK = features_C.reshape(self.spec.num_kv_heads, -1, self.spec.head_dim)
        return heads_GHK[:, 0].flatten()


def _is_output(name: str) -> bool:
    return name.endswith(".output")


def _with_last_rows_scaled(matrix: RoundedMatrix, factors_R: torch.Tensor) -> RoundedMatrix:
    factors_N = torch.ones_like(matrix.scales_NG[:, 0])
    factors_N[-len(factors_R) :] = factors_R
    return matrix.with_rows_scaled(factors_N)
