"""Models with experts in every precision: what is measured, and what is rounded to nearest."""

from pathlib import Path

import pytest
import torch
from fakes.families import family_model
from fakes.llama import Llama

from nimlite.build.convert import convert
from nimlite.build.quantize import recipe_for
from nimlite.build.recipe import Recipe
from nimlite.build.weights_file import load_weights
from nimlite.engine.evaluate import prompt_logits
from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.layers.decoder import Decoder
from nimlite.observe.progress import SILENT
from nimlite.profiles.manifest import Precision
from nimlite.quant.base import PackedWeight
from nimlite.quant.rounded import RoundedMatrix
from nimlite.quant.rtn import nearest_int8

TEXTS = [list(b"Fourscore and seven years ago our fathers brought forth, on this continent")]


@pytest.fixture(scope="module", params=["mixtral", "qwen2-moe"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Llama:
    return family_model(request.param, tmp_path_factory.mktemp("experts"), sharpness=1.0)


@pytest.mark.parametrize(
    ("precision", "scheme", "most"),
    [
        (Precision.FP8, "fp8", 0.12),
        (Precision.INT8_SQ, "int8", 0.05),
        (Precision.INT8_WO, "int8_wo", 0.05),
        (Precision.INT4_AWQ, "int4_wo", 0.3),
        (Precision.INT4_GPTQ, "int4_wo", 0.3),
    ],
)
def test_experts_are_rounded_to_nearest_and_the_router_is_not(
    model: Llama,
    precision: Precision,
    scheme: str,
    most: float,
    kernels: CpuKernels,
    tmp_path: Path,
) -> None:
    target = model.target(precision)
    recipe = recipe_for(precision, model.checkpoint, model.spec, TEXTS)
    convert(model.checkpoint, model.spec, target, 1, tmp_path, SILENT, recipe)
    weights = load_weights(tmp_path)
    up, router = weights["layers.1.experts_up"], weights["layers.1.router"]
    assert isinstance(up, PackedWeight) and isinstance(router, PackedWeight)
    assert (up.scheme, router.scheme) == (scheme, "fp32")
    decoder = Decoder.load(model.spec, weights, model.decoder().layout)
    found_TV = prompt_logits(decoder, kernels, TEXTS[0])
    expected_TV = model.reference_logits(TEXTS[0])
    rows = (found_TV - expected_TV).norm(dim=1) / expected_TV.norm(dim=1)
    # of a token that is close between two experts, rounding chooses
    assert float(rows.median()) <= most


def test_a_recipe_leaves_experts_to_the_format_unless_it_says_so() -> None:
    def nearest(name: str, weight_NC: torch.Tensor) -> RoundedMatrix:
        return nearest_int8(weight_NC)

    weight_NC = torch.randn(4, 32)
    measured = Recipe(quantizer=nearest)
    published = Recipe(quantizer=nearest, rounds_experts=True)
    assert measured.rounded("layers.0.experts_up", weight_NC) is None
    assert published.rounded("layers.0.experts_up", weight_NC) is not None
    for name in ("layers.0.router", "layers.0.shared_gate"):
        assert published.rounded(name, weight_NC) is None
    assert measured.rounded("layers.0.down", weight_NC) is not None
