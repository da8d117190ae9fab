"""An engine of a published checkpoint's kind holds its very values."""

from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs
from fakes.family import tiny_model
from fakes.llama import Llama, random_llama
from fakes.published import compress
from transformers import GPTNeoXConfig, Phi3Config, PreTrainedConfig

from nimlite.build.checkpoint import open_checkpoint
from nimlite.build.convert import convert, read_parts
from nimlite.build.huggingface import HuggingFaceCheckpoint
from nimlite.build.parts import sources_of
from nimlite.build.published_recipe import published_recipe
from nimlite.build.quantize import recipe_for
from nimlite.build.staging import Staging
from nimlite.build.weights_file import load_weights
from nimlite.kernels.triton.weights import FP8_ROWS
from nimlite.observe.progress import SILENT
from nimlite.profiles.manifest import Precision
from nimlite.quant import unpack
from nimlite.quant.base import PackedWeight

_INT4 = {"num_bits": 4, "strategy": "group", "group_size": 64}
_INT8 = {"num_bits": 8, "strategy": "channel"}
_FP8 = {"type": "float", "strategy": "channel"}


def _published(tmp_path: Path, weights: dict[str, Any]) -> Llama:
    llama = random_llama(tmp_path, intermediate_size=128)
    inputs = None  # 4 bits are packed only where activations are not rounded
    if weights.get("num_bits") != 4:
        inputs = QuantizationArgs(strategy="token", dynamic=True, type=weights.get("type", "int"))
    compress(llama.home, tmp_path / "compressed", QuantizationArgs(**weights), inputs)
    return Llama(open_checkpoint(tmp_path / "compressed"), tmp_path / "other")


@pytest.mark.parametrize(
    ("weights", "precision"),
    [
        (_INT4, Precision.INT4),
        (_INT4 | {"symmetric": False}, Precision.INT4_AWQ),
        (_INT8, Precision.INT8_SQ),
    ],
)
def test_the_rounding_is_kept(
    tmp_path: Path, weights: dict[str, Any], precision: Precision
) -> None:
    llama = _published(tmp_path, weights)
    recipe = recipe_for(precision, llama.checkpoint, llama.spec, ())
    convert(llama.checkpoint, llama.spec, llama.target(precision), 1, tmp_path, SILENT, recipe)
    kept = load_weights(tmp_path)["layers.1.qkv"]
    again = llama.weights(precision)["layers.1.qkv"]
    names = [f"model.layers.1.self_attn.{part}_proj.weight" for part in "qkv"]
    expected = torch.cat([llama.checkpoint.tensor(name) for name in names])
    assert isinstance(kept, PackedWeight) and isinstance(again, PackedWeight)
    # Scales and minimums are held in fp16.
    torch.testing.assert_close(unpack(kept), expected, rtol=1e-3, atol=1e-3)
    assert (unpack(kept) - expected).norm() < 0.2 * (unpack(again) - expected).norm()


def test_another_kind_is_rounded_from_what_it_stands_for(tmp_path: Path) -> None:
    llama = _published(tmp_path, _FP8)
    assert published_recipe(Precision.INT4, llama.checkpoint, llama.spec) is None
    plain = open_checkpoint(tmp_path / "checkpoint")
    assert published_recipe(Precision.FP8, plain, llama.spec) is None


def test_fp8_with_a_scale_a_row_is_packed_as_it_is(tmp_path: Path) -> None:
    checkpoint = _published(tmp_path, _FP8).checkpoint
    assert isinstance(checkpoint, HuggingFaceCheckpoint)
    rounded = checkpoint.rounded("model.layers.0.mlp.up_proj.weight", Staging())
    assert rounded is not None
    packed = FP8_ROWS.pack_rounded(rounded)
    assert torch.equal(packed.tensors["weight"].float(), rounded.values_NC.float())
    assert torch.equal(FP8_ROWS.unpack(packed), rounded.dequantized())


_TINY = {"vocab_size": 272, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1}


@pytest.mark.parametrize(
    "config",
    [
        Phi3Config(
            **_TINY,
            num_attention_heads=4,
            num_key_value_heads=2,
            pad_token_id=None,
            eos_token_id=256,
            tie_word_embeddings=True,
            max_position_embeddings=256,
        ),
        GPTNeoXConfig(**_TINY, num_attention_heads=4, eos_token_id=256),
    ],
    ids=["one after the other", "by head"],
)
def test_a_fused_rounding_comes_apart_as_its_weights_do(
    tmp_path: Path, config: PreTrainedConfig
) -> None:
    plain = tiny_model(config, tmp_path)
    inputs = QuantizationArgs(strategy="token", dynamic=True, type="int")
    compress(plain.home, tmp_path / "compressed", QuantizationArgs(**_INT8), inputs)
    checkpoint = open_checkpoint(tmp_path / "compressed")
    sources = sources_of(checkpoint, plain.spec)
    recipe = recipe_for(Precision.INT8_SQ, checkpoint, plain.spec, ())
    for name in ("layers.0.qkv", f"layers.0.{plain.spec.up_name}"):
        weight_NC = torch.cat(read_parts(checkpoint, sources[name], Staging()))
        kept = recipe.rounded(name, weight_NC)
        assert kept is not None
        torch.testing.assert_close(kept.dequantized(), weight_NC.float())
