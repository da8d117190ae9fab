"""Every family against transformers: a whole text, and 32 tokens written one by one, whatever runs
beside it and however its prompt is cut."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fakes import dropped
from fakes.driving import Outcome, drive, request
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

from nimlite.build.reference import Reference
from nimlite.engine.engine import Engine
from nimlite.engine.evaluate import prompt_logits
from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.kernels.torch_kernels import TorchKernels

TEXT = b"Fourscore and seven years ago our fathers brought forth, on this continent, a new nation"
PROMPT = TEXT[:50]
NUM_WRITTEN = 32
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


@pytest.mark.parametrize("name", CASES)
def test_a_family_computes_what_transformers_does(
    name: str, kernels: CpuKernels, tmp_path: Path
) -> None:
    # Gemma scales what it embeds
    embedding = 0.5 if name.startswith("gemma") else 4.0
    check(tiny_model(CASES[name](), tmp_path, embedding), kernels)


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


@pytest.mark.parametrize("name", DROPPED)
def test_a_family_that_transformers_lacks(name: str, kernels: CpuKernels, tmp_path: Path) -> None:
    config, shapes, logits = DROPPED[name]
    check(dropped.dropped_model(config, shapes(config), logits, tmp_path), kernels)


def check(model: Llama, kernels: CpuKernels) -> None:

    def write(engine: Engine, *beside: bytes) -> Outcome:
        params = {"max_tokens": NUM_WRITTEN, "ignore_eos": True, "temperature": 1.0, "seed": 1}
        others = [request(str(i), text, max_tokens=9) for i, text in enumerate(beside)]
        return drive(engine, *others, request("probe", PROMPT, logprobs=1, **params))["probe"]

    engine = model.engine(kernels)
    alone = write(engine)
    assert write(engine).num_cached_tokens == 48
    for outcome in (
        write(engine),
        write(model.engine(kernels, max_num_tokens=13)),
        write(model.engine(kernels), TEXT[30:], TEXT[:7]),
    ):
        assert outcome.token_ids == alone.token_ids
        assert outcome.logprobs == alone.logprobs

    text = [*PROMPT, *alone.token_ids]
    expected_TV = model.reference_logits(text)
    assert expected_TV.std() > 0.5  # it says something
    assert len(set(alone.token_ids)) > 3
    log_p_WV = expected_TV[len(PROMPT) - 1 : -1].log_softmax(1)
    for token_id, logprob, log_p_V in zip(alone.token_ids, alone.logprobs, log_p_WV, strict=True):
        assert logprob.logprob == pytest.approx(float(log_p_V[token_id]), abs=1e-4)
    (reference_TV,) = Reference(model.checkpoint, model.spec)([text])
    for found_TV in (
        prompt_logits(model.decoder(), kernels, text, num_decoded=NUM_WRITTEN),
        prompt_logits(model.decoder(), TorchKernels(), text),
        reference_TV,
    ):
        torch.testing.assert_close(found_TV, expected_TV, atol=1e-4, rtol=0)
