"""The table of cosines and sines, against transformers' own initialisers of the frequencies."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from nimlite.errors import ModelError
from nimlite.layers.rotary import cos_sin_table
from nimlite.models.registry import read_spec
from nimlite.models.spec import RopeSpec

LENGTH = 8192
SCALINGS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 2.5},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 1024,
    },
    "yarn": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 2048,
    },
    "yarn with all": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 2048,
        "beta_fast": 16,
        "beta_slow": 2,
        "mscale": 1.0,
        "mscale_all_dim": 0.7,
        "truncate": False,
    },
    "longrope": {
        "rope_type": "longrope",
        "original_max_position_embeddings": 2048,
        "short_factor": [1 + i / 50 for i in range(32)],
        "long_factor": [1 + i / 5 for i in range(32)],
    },
}


@pytest.mark.parametrize("length", [1000, LENGTH, 3 * LENGTH])
@pytest.mark.parametrize("name", SCALINGS)
def test_angles_equal_transformers(name: str, length: int) -> None:
    """Of a text as long as the model is served for."""
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        hidden_size=128,
        num_attention_heads=2,
        rope_parameters={"rope_theta": 500_000.0, **SCALINGS[name]},
        max_position_embeddings=LENGTH,
    )
    positions = torch.tensor([0, 1, 17, 500, length - 1])
    expected = LlamaRotaryEmbedding(config)(torch.empty(1, 1, 1), positions[None])
    rope = read_spec(config.to_dict()).rope
    assert rope is not None
    table_PR = cos_sin_table(rope, 64, length, max_model_len=length)
    # transformers rounds a theta that grows to fp32: an error that grows with the position
    tolerance = 1e-6 * (length if name == "dynamic" and length > LENGTH else 1)
    for found, wanted in zip(table_PR[positions].chunk(2, dim=1), expected, strict=True):
        torch.testing.assert_close(found[:4], wanted[0, :4, :32], atol=1e-4, rtol=0)
        torch.testing.assert_close(found, wanted[0, :, :32], atol=tolerance, rtol=0)


def test_an_unknown_scaling_is_named() -> None:
    with pytest.raises(ModelError) as raised:
        cos_sin_table(RopeSpec(scaling={"rope_type": "xpos"}), 64, 10)
    assert str(raised.value) == (
        "RoPE scaling 'xpos' is not supported; supported are default, dynamic, linear, llama3,"
        " longrope, su, yarn."
    )
