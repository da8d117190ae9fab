"""Small GGUF files, written by the public gguf package from a transformers Llama."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import LlamaForCausalLM

from nimlite.build.gguf import hugging_face_name

_NAMES = ["token_embd", "output_norm", "output"]
_LAYER_NAMES = ["attn_norm", "attn_q", "attn_k", "attn_v", "attn_output"]
_LAYER_NAMES += ["ffn_norm", "ffn_gate", "ffn_up", "ffn_down"]
CONTROL, NORMAL = 3, 1
K_HALVES = {
    gguf.GGMLQuantizationType.Q4_K: (0, 2),
    gguf.GGMLQuantizationType.Q5_K: (0, 2),
    gguf.GGMLQuantizationType.Q6_K: (208,),
}
"""Where in a block its half-precision scales lie (ggml-common.h)."""


def write_gguf(
    path: Path,
    model: LlamaForCausalLM,
    /,
    *,
    quantization: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    architecture: str = "llama",
    rope_factors: Sequence[float] | None = None,
    merges: Sequence[str] = ("Ġ a",),
    **metadata: Any,
) -> Path:
    """`merges`: pairs such as "1 2". `metadata`: replaces or adds tokenizer.ggml.* fields."""
    writer = gguf.GGUFWriter(path, architecture)
    _add_config(writer, model)
    _add_tokenizer(writer, merges, {"model": "gpt2", "pre": "smollm", "eos_token_id": 0} | metadata)
    state = model.state_dict()
    for name in [
        *_NAMES,
        *(f"blk.{i}.{n}" for i in range(model.config.num_hidden_layers) for n in _LAYER_NAMES),
    ]:
        for kind in ("weight", "bias"):
            theirs = hugging_face_name(f"{name}.{kind}")
            if theirs not in state or (name == "output" and model.config.tie_word_embeddings):
                continue
            values = _as_llama_cpp(name, state[theirs], model.config).numpy()
            matrix = values.ndim == 2
            stored = quantization if matrix else gguf.GGMLQuantizationType.F32
            data = _stored(values, stored)
            writer.add_tensor(f"{name}.{kind}", data, raw_dtype=stored)
    if rope_factors is not None:
        writer.add_tensor("rope_freqs.weight", np.array(rope_factors, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _stored(values: np.ndarray, kind: gguf.GGMLQuantizationType) -> np.ndarray:
    """K-quants, which the gguf package can't make, are random blocks with finite scales."""
    if kind is gguf.GGMLQuantizationType.I8:
        return values.astype(np.int8)
    if kind not in K_HALVES:
        return gguf.quants.quantize(values, kind)
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    rows, blocks = values.shape[0], values.shape[1] // block_size
    random = np.random.default_rng(rows)
    data = random.integers(0, 256, (rows, blocks, block_bytes), np.uint8)
    for offset in K_HALVES[kind]:
        scales = random.uniform(1e-3, 1e-2, (rows, blocks, 1)).astype(np.float16)
        data[..., offset : offset + 2] = scales.view(np.uint8)
    return data.reshape(rows, -1)


def _add_config(writer: gguf.GGUFWriter, model: LlamaForCausalLM) -> None:
    config = model.config
    writer.add_name("Tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _add_tokenizer(writer: gguf.GGUFWriter, merges: Sequence[str], fields: dict[str, Any]) -> None:
    """Token 0 is <|end|>, then the 256 bytes, then what the merges make."""
    tokens = ["<|end|>", *sorted(ByteLevel.alphabet()), *(m.replace(" ", "") for m in merges)]
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL] + [NORMAL] * (len(tokens) - 1))
    writer.add_token_merges(list(merges))
    for key, value in fields.items():
        add = {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32}[type(value)]
        add(f"tokenizer.ggml.{key}", value)


def _as_llama_cpp(name: str, tensor: torch.Tensor, config: Any) -> torch.Tensor:
    """llama.cpp rotates neighbouring rows of a head, where transformers rotates its two halves."""
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    count = heads.get(name.rpartition(".")[2])
    if count is None:
        return tensor
    halves = tensor.reshape(count, 2, -1, *tensor.shape[1:])
    return halves.swapaxes(1, 2).reshape(tensor.shape).contiguous()
