"""Every family and its variants, as tiny models of random weights."""

from collections.abc import Callable
from pathlib import Path

from fakes import dropped
from fakes.family import tiny_model
from fakes.llama import Llama
from transformers import (
    BloomConfig,
    DbrxConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    Glm4Config,
    GlmConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    MptConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

TINY = {
    "vocab_size": 272,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "eos_token_id": 256,
    "pad_token_id": None,
}
# shorter than the prompt, and no multiple of a block
WINDOW = 21
GPT = {"vocab_size": 272, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}
FALCON = {
    key: TINY[key]
    for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
}
NEOX = {key: value for key, value in TINY.items() if key != "num_key_value_heads"}
GEMMA = TINY | {"head_dim": 32}
CASES: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama 3.1": lambda: LlamaConfig(
        **TINY,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 1e4,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ),
    "mistral": lambda: MistralConfig(**TINY, sliding_window=WINDOW),
    "qwen2": lambda: Qwen2Config(**TINY),
    "qwen2, late windows": lambda: Qwen2Config(
        **TINY, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1
    ),
    "qwen3": lambda: Qwen3Config(**TINY, head_dim=32),
    "gemma": lambda: GemmaConfig(**GEMMA),
    "gemma2": lambda: Gemma2Config(
        **GEMMA, sliding_window=WINDOW, query_pre_attn_scalar=24, attn_logit_softcapping=5.0
    ),
    "gemma3": lambda: Gemma3TextConfig(
        **GEMMA,
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            "full_attention": {"rope_type": "linear", "rope_theta": 1e4, "factor": 8.0},
        },
    ),
    "phi3": lambda: Phi3Config(**TINY, sliding_window=WINDOW),
    "phi3, long": lambda: Phi3Config(
        **TINY,
        original_max_position_embeddings=64,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "short_factor": [1.0] * 8,
            "long_factor": [1 + i / 4 for i in range(8)],
        },
    ),
    "phi": lambda: PhiConfig(**TINY, partial_rotary_factor=0.5),
    "gpt2": lambda: GPT2Config(**GPT),
    "gpt-neox": lambda: GPTNeoXConfig(**NEOX, rotary_pct=0.5),
    "gpt-neox, sequential": lambda: GPTNeoXConfig(
        **NEOX, use_parallel_residual=False, attention_bias=False
    ),
    "gpt-j": lambda: GPTJConfig(**GPT, rotary_dim=8, tie_word_embeddings=False),
    "falcon 7b": lambda: FalconConfig(**FALCON),
    "falcon 40b": lambda: FalconConfig(**FALCON, new_decoder_architecture=True, num_kv_heads=2),
    "falcon 11b": lambda: FalconConfig(
        **FALCON, new_decoder_architecture=True, num_kv_heads=2, num_ln_in_parallel_attn=1
    ),
    "falcon rw": lambda: FalconConfig(
        **FALCON, alibi=True, multi_query=False, parallel_attn=False, bias=True
    ),
    "mpt": lambda: MptConfig(
        vocab_size=272,
        d_model=96,
        n_layers=2,
        n_heads=6,
        max_seq_len=256,
        attn_config={"clip_qkv": 2.0, "softmax_scale": 0.3},
    ),
    "glm": lambda: GlmConfig(**TINY, head_dim=32),
    "glm 0414": lambda: Glm4Config(**TINY, head_dim=32),
    "mixtral": lambda: MixtralConfig(**TINY, num_local_experts=4),
    "qwen2-moe": lambda: Qwen2MoeConfig(
        **TINY,
        num_experts=5,
        num_experts_per_tok=3,
        moe_intermediate_size=48,
        shared_expert_intermediate_size=80,
    ),
    "qwen3-moe, one layer dense": lambda: Qwen3MoeConfig(
        **TINY,
        head_dim=32,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=48,
        norm_topk_prob=True,
        mlp_only_layers=[0],
    ),
    "dbrx": lambda: DbrxConfig(
        vocab_size=272,
        d_model=64,
        n_layers=2,
        n_heads=4,
        max_seq_len=256,
        attn_config={"kv_n_heads": 2, "clip_qkv": 2.0, "rope_theta": 1e4},
        ffn_config={"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
    ),
    "bloom": lambda: BloomConfig(vocab_size=272, hidden_size=96, n_layer=2, n_head=6),
}


BAICHUAN = {
    "architectures": ["BaichuanForCausalLM"],
    "vocab_size": 272,
    "hidden_size": 96,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "rms_norm_eps": 1e-6,
    "eos_token_id": 256,
}
CHATGLM = {
    "architectures": ["ChatGLMModel"],
    "padded_vocab_size": 272,
    "hidden_size": 64,
    "ffn_hidden_size": 80,
    "num_layers": 2,
    "num_attention_heads": 2,
    "multi_query_attention": True,
    "multi_query_group_num": 1,
    "kv_channels": 32,
    "seq_length": 256,
    "layernorm_epsilon": 1e-5,
    "add_qkv_bias": True,
    "rope_ratio": 3,
    "eos_token_id": 256,
}
DROPPED = {
    "baichuan 7b": (
        BAICHUAN | {"max_position_embeddings": 256},
        dropped.baichuan_shapes,
        dropped.baichuan,
    ),
    "baichuan 13b": (
        BAICHUAN | {"model_max_length": 256},
        dropped.baichuan_shapes,
        dropped.baichuan,
    ),
    "chatglm": (CHATGLM, dropped.chatglm_shapes, dropped.chatglm),
}


def family_model(name: str, directory: Path, sharpness: float = 1.5) -> Llama:
    """One of the cases, saved in `directory`. `sharpness`: as for `save_random`."""
    if name in DROPPED:
        config, shapes, logits = DROPPED[name]
        return dropped.dropped_model(config, shapes(config), logits, directory)
    # Gemma scales what it embeds
    embedding = 0.5 if name.startswith("gemma") else 4.0
    return tiny_model(CASES[name](), directory, embedding, sharpness)
