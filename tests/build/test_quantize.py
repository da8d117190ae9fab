"""Recipes: what a precision does to the weights, and what the model is afterwards."""

from pathlib import Path

import pytest
import torch
from fakes.llama import Llama, random_llama

from nimlite.build.calibration import calibrate, calibration_texts
from nimlite.build.convert import convert
from nimlite.build.quantize import is_calibrated, nearest_recipe, recipe_for
from nimlite.build.recipe import Recipe
from nimlite.build.reference import Reference
from nimlite.build.weights_file import load_weights
from nimlite.engine.evaluate import Evaluation
from nimlite.kernels.base import KVLayout
from nimlite.kernels.torch_kernels import TorchKernels
from nimlite.layers.decoder import Decoder
from nimlite.layers.linear import Weights
from nimlite.models.spec import ModelSpec
from nimlite.observe.progress import SILENT
from nimlite.profiles.manifest import Precision
from nimlite.quant import SCHEMES, unpack
from nimlite.quant.base import PackedWeight
from nimlite.quant.fp8 import FP8_MAX
from nimlite.quant.rtn import nearest_int8

SHAPE = {
    "architecture": "LlamaForCausalLM",
    "hidden_size": 576,
    "num_heads": 9,
    "num_kv_heads": 3,
    "head_dim": 64,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "max_positions": 8192,
    "norm_eps": 1e-5,
}
MLP = ("gate_up", "down")
TEXTS = [list(range(30, 94)), [5, 7, 200, 11]]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Llama:
    return random_llama(tmp_path_factory.mktemp("llama"), attention_bias=True)


def converted(llama: Llama, precision: Precision, recipe: Recipe, directory: Path) -> Weights:
    convert(llama.checkpoint, llama.spec, llama.target(precision), 1, directory, SILENT, recipe)
    return load_weights(directory)


def matrix(weights: Weights, name: str) -> torch.Tensor:
    weight = weights[name]
    return unpack(weight) if isinstance(weight, PackedWeight) else weight


def test_every_linear_is_seen_in_the_order_of_computation(llama: Llama) -> None:
    seen = []
    calibrate(llama.checkpoint, llama.spec, TEXTS, lambda *call: seen.append(call))
    names = [f"layers.{i}.{n}" for i in range(2) for n in ("qkv", "output", "gate_up", "down")]
    assert [name for name, _, _ in seen] == names
    for name, x_TC, weight_NC in seen:
        assert x_TC.shape == (68, weight_NC.shape[1])
        assert torch.equal(weight_NC, matrix(llama.weights(Precision.FP32), name))


def test_calibration_reads_at_most_what_it_is_told(llama: Llama) -> None:
    texts = calibration_texts(llama.tokenizer_directory / "tokenizer.json", "a" * 2000, 1200)
    assert [len(text) for text in texts] == [512, 512, 176]


def test_int8_weights_have_a_scale_a_row_and_the_vocabulary_none(
    llama: Llama, tmp_path: Path
) -> None:
    recipe = recipe_for(Precision.INT8_WO, llama.checkpoint, llama.spec, ())
    weights = converted(llama, Precision.INT8_WO, recipe, tmp_path)
    exact = matrix(llama.weights(Precision.FP32), "layers.1.gate_up")
    found = matrix(weights, "layers.1.gate_up")
    torch.testing.assert_close(found, nearest_int8(exact).dequantized(), rtol=1e-3, atol=0)
    assert torch.equal(
        matrix(weights, "embedding"), matrix(llama.weights(Precision.BF16), "embedding")
    )


def test_smoothing_leaves_the_model_as_it_is(llama: Llama, tmp_path: Path) -> None:
    """Norm and linear together: only the rounding between them changes."""
    recipe = recipe_for(Precision.INT8_SQ, llama.checkpoint, llama.spec, TEXTS)
    linears = {f"layers.{i}.{name}" for i in range(2) for name in ("qkv", "gate_up")}
    norms = {f"layers.{i}.{name}_norm" for i in range(2) for name in ("input", "post")}
    assert recipe.factors.keys() == linears | norms
    unrounded = Recipe(factors=recipe.factors)
    weights = converted(llama, Precision.FP32, unrounded, tmp_path)
    plain = llama.weights(Precision.FP32)
    for i in range(2):
        for norm, linear in (("input_norm", "qkv"), ("post_norm", "gate_up")):
            names = f"layers.{i}.{norm}", f"layers.{i}.{linear}"
            found, expected = (matrix(w, names[0]) * matrix(w, names[1]) for w in (weights, plain))
            torch.testing.assert_close(found, expected)


def test_small_models_are_calibrated_in_8_bits_too() -> None:
    small = ModelSpec(**SHAPE, num_layers=30)
    large = ModelSpec(**SHAPE | {"hidden_size": 4096, "intermediate_size": 14336}, num_layers=32)
    for precision in (Precision.FP8, Precision.INT8_WO):
        assert is_calibrated(precision, small) and not is_calibrated(precision, large)
    for precision in (Precision.INT8_SQ, Precision.INT4_AWQ, Precision.INT4_GPTQ):
        assert is_calibrated(precision, small) and is_calibrated(precision, large)
    assert not is_calibrated(Precision.INT8, small)


def test_fp8_inputs_have_a_scale_of_their_own_where_that_is_asked_for(llama: Llama) -> None:
    fixed = recipe_for(Precision.FP8, llama.checkpoint, llama.spec, TEXTS, static_inputs=True)
    seen: dict[str, torch.Tensor] = {}

    def observe(name: str, x_TC: torch.Tensor, weight_NC: torch.Tensor) -> torch.Tensor:
        seen[name] = x_TC
        rounded = fixed.rounded(name, weight_NC)
        return weight_NC if rounded is None else rounded.dequantized()

    calibrate(llama.checkpoint, llama.spec, TEXTS, observe)
    assert seen.keys() - fixed.kept == {f"layers.{i}.{n}" for i in (0, 1) for n in MLP}
    for name in seen.keys() - fixed.kept:
        rounded = fixed.rounded(name, torch.empty(0))
        assert rounded is not None and rounded.input_scale is not None
        largest = float(seen[name].abs().max())
        assert rounded.input_scale * FP8_MAX == pytest.approx(largest, rel=1e-4)


def test_attention_and_the_outer_layers_of_a_small_model_stay_in_16_bits(
    llama: Llama, tmp_path: Path
) -> None:
    small = ModelSpec(**SHAPE, num_layers=30)
    large = ModelSpec(**SHAPE | {"hidden_size": 4096, "intermediate_size": 14336}, num_layers=32)
    nearest, of_large = (nearest_recipe(Precision.FP8, spec) for spec in (small, large))
    assert nearest is not None and of_large is not None and not of_large.kept
    linears = {f"layers.{i}.{n}" for i in range(30) for n in ("qkv", "output", *MLP)}
    rounded = {f"layers.{i}.{n}" for i in range(1, 29) for n in MLP}
    assert nearest.kept == linears - rounded
    recipe = recipe_for(Precision.FP8, llama.checkpoint, llama.spec, TEXTS)
    weights = converted(llama, Precision.FP8, recipe, tmp_path)
    for name, scheme in (("qkv", "bf16"), ("output", "bf16"), ("down", "fp8")):
        weight = weights[f"layers.0.{name}"]
        assert isinstance(weight, PackedWeight) and weight.scheme == scheme
    assert torch.equal(
        matrix(weights, "layers.1.qkv"), matrix(llama.weights(Precision.BF16), "layers.1.qkv")
    )


CALIBRATED_WEIGHTS = [
    *(Precision.FP8, Precision.INT8_WO),
    *(Precision.INT4_AWQ, Precision.INT4_GPTQ),
]


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("precision", CALIBRATED_WEIGHTS)
def test_a_calibrated_model_is_nearer_than_a_rounded_one(
    precision: Precision, has_bias: bool, tmp_path: Path
) -> None:
    """Of its logits on the text: so all that is folded anywhere is undone where it must be."""
    llama = random_llama(tmp_path / "llama", attention_bias=has_bias, mlp_bias=has_bias)
    texts = [list(range(30, 94)), list(range(100, 250)), [5, 7, 200, 11]]
    calibrated = recipe_for(precision, llama.checkpoint, llama.spec, texts)
    errors = []
    nearest = nearest_recipe(precision, llama.spec)
    assert nearest is not None
    for name, recipe in ("found", calibrated), ("nearest", nearest):
        (tmp_path / name).mkdir()
        weights = converted(llama, precision, recipe, tmp_path / name)
        unpacked = {
            name: SCHEMES["fp32"].pack(unpack(w)) if isinstance(w, PackedWeight) else w
            for name, w in weights.items()
        }
        layout = KVLayout(1, 16, llama.spec.num_kv_heads, llama.spec.head_dim, torch.float32)
        found = Evaluation(Decoder.load(llama.spec, unpacked, layout), TorchKernels())(texts)
        reference = Reference(llama.checkpoint, llama.spec)(texts)
        errors.append(sum(float((f - e).norm()) for f, e in zip(found, reference, strict=True)))
    assert errors[0] < 0.95 * errors[1]
