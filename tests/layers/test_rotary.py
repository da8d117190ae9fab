"""The table of cosines and sines, against transformers' own initialisers of the frequencies."""

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from nimlite.errors import ModelError
from nimlite.layers.rotary import cos_sin_table
from nimlite.models.spec import RopeSpec


@pytest.mark.parametrize(
    "scaling",
    [
        {},
        {"rope_type": "linear", "factor": 2.5},
        {
            "rope_type": "llama3",
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    ],
    ids=lambda scaling: scaling.get("rope_type", "default"),
)
def test_angles_equal_transformers(scaling: dict[str, object]) -> None:
    parameters = {"rope_type": "default", "rope_theta": 500_000.0} | scaling
    config = LlamaConfig(
        hidden_size=128, num_attention_heads=2, rope_parameters=parameters,
        max_position_embeddings=131_072,
    )  # fmt: skip
    positions = torch.tensor([0, 1, 17, 8191, 8192, 100_000, 131_071])
    expected = LlamaRotaryEmbedding(config)(torch.empty(1, 1, 1), positions[None])
    table_PK = cos_sin_table(RopeSpec(theta=500_000.0, scaling=scaling), 64, 131_072)
    for found, wanted in zip(table_PK[positions].chunk(2, dim=1), expected, strict=True):
        torch.testing.assert_close(found, wanted[0, :, :32], atol=1e-6, rtol=0)


def test_an_unknown_scaling_is_named() -> None:
    with pytest.raises(ModelError) as raised:
        cos_sin_table(RopeSpec(scaling={"rope_type": "yarn"}), 64, 10)
    assert str(raised.value) == (
        "RoPE scaling 'yarn' is not supported; supported are default, linear, llama3."
    )
