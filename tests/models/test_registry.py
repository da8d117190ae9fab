from typing import Any

import pytest

from nimlite.errors import ModelError
from nimlite.models.registry import read_spec, weight_sources
from nimlite.models.spec import RopeSpec

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 4096,
    "vocab_size": 272,
    "rms_norm_eps": 1e-5,
}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 64}


def test_what_a_config_leaves_out() -> None:
    spec = read_spec(CONFIG)
    assert (spec.num_kv_heads, spec.head_dim, spec.activation) == (4, 16, "silu")
    assert not spec.tie_embeddings and spec.rope == RopeSpec(theta=10_000.0)


@pytest.mark.parametrize(
    "written",
    [
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}},
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
        {"rope_theta": 5e5, "rope_scaling": {"type": "llama3", **LLAMA3}},
    ],
    ids=["transformers 5", "transformers 4", "older"],
)
def test_rotary_positions_of_every_age(written: dict[str, Any]) -> None:
    rope = read_spec(CONFIG | written).rope
    assert rope == RopeSpec(theta=5e5, scaling={"rope_type": "llama3", **LLAMA3})


@pytest.mark.parametrize(("window", "expected"), [(None, ()), (1024, (1024, 1024))])
def test_mistral_has_a_window(window: int | None, expected: tuple[int, ...]) -> None:
    config = CONFIG | {"architectures": ["MistralForCausalLM"], "sliding_window": window}
    assert read_spec(config).windows == expected


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        ({"type": "linear", "factor": 4.0}, 4096),
        ({"type": "dynamic", "factor": 4.0}, 16384),
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}, 16384),
    ],
)
def test_how_far_stretched_positions_go(scaling: dict[str, Any], expected: int) -> None:
    assert read_spec(CONFIG | {"rope_scaling": scaling}).max_positions == expected


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"architectures": ["LamaForCausalLM"]},
            r"'LamaForCausalLM' is not supported. The nearest that is, is LlamaForCausalLM, as "
            r"which this config.json can be read: if it is one, let `architectures` say so. "
            r".*docs/adding-a-model.md",
        ),
        (
            {"architectures": ["GPT3LMHeadModel"]},
            r"is, is GPT2LMHeadModel, which this config.json is not: it lacks 'n_embd'",
        ),
        (
            {"architectures": ["LamaForCausalLM"], "hidden_act": "mish"},
            r"which this config.json is not: The activation 'mish'",
        ),
        ({"architectures": None}, "no `architectures`"),
        ({"hidden_act": "mish"}, "activation 'mish' .* supported are silu, swish, gelu"),
    ],
)
def test_what_is_not_supported(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        read_spec(CONFIG | changes)


def test_an_incomplete_config() -> None:
    with pytest.raises(ModelError, match="lacks 'vocab_size': the file is incomplete"):
        read_spec({key: value for key, value in CONFIG.items() if key != "vocab_size"})


def test_weights_of_a_model_with_everything() -> None:
    sources = weight_sources(read_spec(CONFIG | {"attention_bias": True, "mlp_bias": True}))
    qkv = sources["layers.1.qkv"]
    assert qkv.names[0] == "model.layers.1.self_attn.q_proj.weight" and qkv.heads == (4, 4)
    assert sources["layers.1.qkv.bias"].shard == "rows"
    assert sources["layers.1.down"].shard == "columns"
    assert sources["layers.1.down.bias"].shard == "none"
    assert len(sources) == 2 * (2 + 2 * 4) + 3
    assert "head" not in weight_sources(read_spec(CONFIG | {"tie_word_embeddings": True}))
