"""What the config.json of public checkpoints says, read as their authors meant it: the number of
parameters comes out as it is known."""

import math
from typing import Any

import pytest

from nimlite.models.registry import read_spec, weight_sources

LLAMA_KEYS = (
    "architectures",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "max_position_embeddings",
    "rms_norm_eps",
)


def llama_like(architecture: str, *sizes: float, **others: Any) -> dict[str, Any]:
    """Sizes in the order of the keys above."""
    return dict(zip(LLAMA_KEYS, ([architecture], *sizes), strict=True)) | others


QWEN_WINDOW = {"use_sliding_window": False, "sliding_window": 131072, "max_window_layers": 28}
CONFIGS: dict[str, tuple[float, dict[str, Any]]] = {
    "mistralai/Mistral-7B-v0.1": (
        7.24,
        llama_like(
            "MistralForCausalLM", 4096, 14336, 32, 32, 8, 32000, 32768, 1e-5, sliding_window=4096
        ),
    ),
    "Qwen/Qwen2.5-7B": (
        7.61,
        llama_like("Qwen2ForCausalLM", 3584, 18944, 28, 28, 4, 152064, 131072, 1e-6, **QWEN_WINDOW),
    ),
    "Qwen/Qwen3-8B": (
        8.19,
        llama_like("Qwen3ForCausalLM", 4096, 12288, 36, 32, 8, 151936, 40960, 1e-6, head_dim=128),
    ),
    "google/gemma-7b": (
        8.54,
        llama_like(
            "GemmaForCausalLM", 3072, 24576, 28, 16, 16, 256000, 8192, 1e-6, hidden_act="gelu"
        ),
    ),
    "google/gemma-2-9b": (
        9.24,
        llama_like("Gemma2ForCausalLM", 3584, 14336, 42, 16, 8, 256000, 8192, 1e-6, head_dim=256),
    ),
    "google/gemma-3-4b-it": (
        3.88,
        {
            "architectures": ["Gemma3ForConditionalGeneration"],
            "text_config": {
                "hidden_size": 2560,
                "intermediate_size": 10240,
                "num_hidden_layers": 34,
                "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                "sliding_window": 1024,
            },
        },
    ),
    "microsoft/phi-2": (
        2.78,
        llama_like(
            "PhiForCausalLM", 2560, 10240, 32, 32, 32, 51200, 2048, 0, partial_rotary_factor=0.4
        ),
    ),
    "microsoft/Phi-3-mini-4k-instruct": (
        3.82,
        llama_like(
            "Phi3ForCausalLM", 3072, 8192, 32, 32, 32, 32064, 4096, 1e-5, sliding_window=2047
        ),
    ),
    "openai-community/gpt2": (
        0.124,
        {
            "architectures": ["GPT2LMHeadModel"],
            "n_embd": 768,
            "n_layer": 12,
            "n_head": 12,
            "n_positions": 1024,
            "vocab_size": 50257,
        },
    ),
    "EleutherAI/gpt-j-6b": (
        6.05,
        {
            "architectures": ["GPTJForCausalLM"],
            "n_embd": 4096,
            "n_layer": 28,
            "n_head": 16,
            "n_positions": 2048,
            "rotary_dim": 64,
            "vocab_size": 50400,
        },
    ),
    "EleutherAI/gpt-neox-20b": (
        20.55,
        {
            "architectures": ["GPTNeoXForCausalLM"],
            "hidden_size": 6144,
            "intermediate_size": 24576,
            "num_hidden_layers": 44,
            "num_attention_heads": 64,
            "max_position_embeddings": 2048,
            "vocab_size": 50432,
            "rotary_pct": 0.25,
            "rotary_emb_base": 10000,
        },
    ),
    "tiiuae/falcon-7b": (
        6.92,
        {
            "architectures": ["FalconForCausalLM"],
            "hidden_size": 4544,
            "num_attention_heads": 71,
            "num_hidden_layers": 32,
            "multi_query": True,
            "parallel_attn": True,
            "vocab_size": 65024,
        },
    ),
    "tiiuae/falcon-40b": (
        41.3,
        {
            "architectures": ["RWForCausalLM"],
            "hidden_size": 8192,
            "n_head": 128,
            "n_head_kv": 8,
            "n_layer": 60,
            "new_decoder_architecture": True,
            "vocab_size": 65024,
        },
    ),
    "mosaicml/mpt-7b": (
        6.65,
        {
            "architectures": ["MPTForCausalLM"],
            "d_model": 4096,
            "n_heads": 32,
            "n_layers": 32,
            "max_seq_len": 2048,
            "vocab_size": 50432,
            "no_bias": True,
            "expansion_ratio": 4,
            "attn_config": {"alibi": True, "alibi_bias_max": 8, "clip_qkv": None, "qk_ln": False},
        },
    ),
    "bigscience/bloom-7b1": (
        7.07,
        {
            "architectures": ["BloomForCausalLM"],
            "n_embed": 4096,
            "n_layer": 30,
            "num_attention_heads": 32,
            "vocab_size": 250880,
        },
    ),
    "baichuan-inc/Baichuan2-13B-Base": (
        13.9,
        {
            "architectures": ["BaichuanForCausalLM"],
            "hidden_size": 5120,
            "intermediate_size": 13696,
            "num_hidden_layers": 40,
            "num_attention_heads": 40,
            "model_max_length": 4096,
            "vocab_size": 125696,
            "rms_norm_eps": 1e-6,
        },
    ),
    "THUDM/chatglm3-6b": (
        6.24,
        {
            "architectures": ["ChatGLMModel"],
            "hidden_size": 4096,
            "ffn_hidden_size": 13696,
            "num_layers": 28,
            "num_attention_heads": 32,
            "kv_channels": 128,
            "padded_vocab_size": 65024,
            "multi_query_attention": True,
            "multi_query_group_num": 2,
            "seq_length": 8192,
            "layernorm_epsilon": 1e-5,
            "add_qkv_bias": True,
            "rmsnorm": True,
        },
    ),
    "THUDM/glm-4-9b-hf": (
        9.4,
        llama_like(
            "GlmForCausalLM", 4096, 13696, 40, 32, 2, 151552, 8192, 1.5625e-07, head_dim=128
        ),
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_as_many_parameters_as_are_known(name: str) -> None:
    billions, config = CONFIGS[name]
    spec = read_spec(config)
    assert spec.num_parameters / 1e9 == pytest.approx(billions, rel=0.005)
    matrices = sum(
        math.prod(source.shape)
        for source in weight_sources(spec).values()
        if len(source.shape) == 2
    )
    assert matrices == spec.num_parameters


def test_what_is_easily_misread() -> None:
    specs = {name: read_spec(config) for name, (_, config) in CONFIGS.items()}
    gemma = specs["google/gemma-3-4b-it"]
    assert (gemma.windows[:6], gemma.rope_of(0), gemma.rope_of(5)) == (
        (1024, 1024, 1024, 1024, 1024, 0),
        gemma.local_rope,
        gemma.rope,
    )
    assert weight_sources(gemma)["final_norm"].names == ("language_model.model.norm.weight",)
    assert specs["google/gemma-7b"].activation == "gelu_tanh"
    assert not specs["Qwen/Qwen2.5-7B"].windows
    assert specs["tiiuae/falcon-7b"].block == "parallel_shared"
    assert specs["tiiuae/falcon-40b"].block == "parallel"
    rope = specs["microsoft/phi-2"].rope
    assert rope is not None and rope.dim == 32
    baichuan = specs["baichuan-inc/Baichuan2-13B-Base"]
    assert len(baichuan.alibi_slopes) == 40 and weight_sources(baichuan)["head"].unit_rows
