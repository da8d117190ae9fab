"""What the config.json of public checkpoints says of their shapes, with the number of parameters
(billions) that they are known to have."""

from typing import Any

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
    "meta-llama/Llama-2-7b-hf": (
        6.74,
        llama_like("LlamaForCausalLM", 4096, 11008, 32, 32, 32, 32000, 4096, 1e-5),
    ),
    "meta-llama/Meta-Llama-3-8B": (
        8.03,
        llama_like(
            "LlamaForCausalLM", 4096, 14336, 32, 32, 8, 128256, 8192, 1e-5, rope_theta=500000.0
        ),
    ),
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
    "baichuan-inc/Baichuan2-7B-Base": (
        7.51,
        {
            "architectures": ["BaichuanForCausalLM"],
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "max_position_embeddings": 4096,
            "vocab_size": 125696,
            "rms_norm_eps": 1e-6,
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
    "mistralai/Mixtral-8x7B-v0.1": (
        46.7,
        llama_like(
            "MixtralForCausalLM",
            *(4096, 14336, 32, 32, 8, 32000, 32768, 1e-5),
            num_local_experts=8,
            num_experts_per_tok=2,
            rope_theta=1e6,
        ),
    ),
    "Qwen/Qwen1.5-MoE-A2.7B": (
        14.3,
        llama_like(
            "Qwen2MoeForCausalLM",
            *(2048, 5632, 24, 16, 16, 151936, 8192, 1e-6),
            num_experts=60,
            num_experts_per_tok=4,
            moe_intermediate_size=1408,
            shared_expert_intermediate_size=5632,
            norm_topk_prob=False,
        ),
    ),
    "Qwen/Qwen3-30B-A3B": (
        30.5,
        llama_like(
            "Qwen3MoeForCausalLM",
            *(2048, 6144, 48, 32, 4, 151936, 40960, 1e-6),
            head_dim=128,
            num_experts=128,
            num_experts_per_tok=8,
            moe_intermediate_size=768,
            norm_topk_prob=True,
        ),
    ),
    "databricks/dbrx-base": (
        131.6,
        {
            "architectures": ["DbrxForCausalLM"],
            "d_model": 6144,
            "n_heads": 48,
            "n_layers": 40,
            "max_seq_len": 32768,
            "vocab_size": 100352,
            "attn_config": {"clip_qkv": 8, "kv_n_heads": 8, "rope_theta": 500000},
            "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4},
        },
    ),
}
