"""Families that transformers does not have (any more), in plain torch.

Derived from the code that is published with their checkpoints:
Baichuan: https://huggingface.co/baichuan-inc/Baichuan2-13B-Base/blob/main/modeling_baichuan.py
ChatGLM: https://huggingface.co/THUDM/chatglm3-6b/blob/main/modeling_chatglm.py
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fakes.llama import EOS_ID, Llama
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import linear, normalize, silu

from nimlite.build.checkpoint import open_checkpoint
from nimlite.build.tokenizer_files import SpecialTokens, byte_tokenizer, write_tokenizer

Config = Mapping[str, Any]
Weights = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class DroppedModel(Llama):
    """A checkpoint, and what computes its logits."""

    logits: Callable[[Config, Weights, Tensor], Tensor]
    weights_of: Weights

    @torch.inference_mode()
    def reference_logits(self, token_ids: Sequence[int]) -> Tensor:
        return self.logits(self.checkpoint.config, self.weights_of, torch.tensor(list(token_ids)))


def dropped_model(
    config: Config,
    shapes: Mapping[str, tuple[int, ...]],
    logits: Callable[[Config, Weights, Tensor], Tensor],
    directory: Path,
) -> DroppedModel:
    """Random weights of these shapes, saved in `directory`."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        matrix = (4 if "embed" in name else 1.5) * shape[-1] ** -0.5 * noise
        vector = 0.2 * noise + (0 if name.endswith("bias") else 1)
        weights[name] = matrix if len(shape) > 1 else vector
    home = directory / "checkpoint"
    home.mkdir()
    save_file(weights, home / "model.safetensors")
    (home / "config.json").write_text(json.dumps(dict(config)))
    special = SpecialTokens(eos_ids=(EOS_ID,), pad_id=EOS_ID)
    write_tokenizer(home, byte_tokenizer(), special, 256)
    return DroppedModel(open_checkpoint(home), directory / "weights", logits, weights)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def heads(x: Tensor, count: int) -> Tensor:
    return x.view(len(x), count, -1).transpose(0, 1)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """Causal; [heads, tokens, size] in, [tokens, heads * size] out."""
    scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]) + bias
    unseen = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
    return (scores.masked_fill(unseen, -torch.inf).softmax(-1) @ v).transpose(0, 1).flatten(1)


def baichuan_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    size, inner, vocab = (config[k] for k in ("hidden_size", "intermediate_size", "vocab_size"))
    shapes = {
        "model.embed_tokens.weight": (vocab, size),
        "model.norm.weight": (size,),
        "lm_head.weight": (vocab, size),
    }
    for i in range(config["num_hidden_layers"]):
        shapes |= {
            f"model.layers.{i}.input_layernorm.weight": (size,),
            f"model.layers.{i}.self_attn.W_pack.weight": (3 * size, size),
            f"model.layers.{i}.self_attn.o_proj.weight": (size, size),
            f"model.layers.{i}.post_attention_layernorm.weight": (size,),
            f"model.layers.{i}.mlp.gate_proj.weight": (inner, size),
            f"model.layers.{i}.mlp.up_proj.weight": (inner, size),
            f"model.layers.{i}.mlp.down_proj.weight": (size, inner),
        }
    return shapes


def baichuan(config: Config, w: Weights, token_ids: Tensor) -> Tensor:
    """Logits [tokens, vocabulary]."""
    num_heads, eps = config["num_attention_heads"], config["rms_norm_eps"]
    is_13b = "max_position_embeddings" not in config
    position = torch.arange(len(token_ids))
    bias = alibi(num_heads)[:, None, None] * position if is_13b else 0.0
    x = w["model.embed_tokens.weight"][token_ids]
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        y = rms_norm(x, w[f"{layer}.input_layernorm.weight"], eps)
        packed = linear(y, w[f"{layer}.self_attn.W_pack.weight"])
        q, k, v = (heads(part, num_heads) for part in packed.chunk(3, dim=-1))
        if not is_13b:
            q, k = turn_halves(q), turn_halves(k)
        x = x + linear(attend(q, k, v, bias), w[f"{layer}.self_attn.o_proj.weight"])
        y = rms_norm(x, w[f"{layer}.post_attention_layernorm.weight"], eps)
        gate, up = (linear(y, w[f"{layer}.mlp.{part}_proj.weight"]) for part in ("gate", "up"))
        x = x + linear(silu(gate) * up, w[f"{layer}.mlp.down_proj.weight"])
    head = w["lm_head.weight"]
    if config["vocab_size"] == 125_696:  # version 2
        head = normalize(head)
    return linear(rms_norm(x, w["model.norm.weight"], eps), head)


def alibi(num_heads: int) -> Tensor:
    """Slopes, as 13B's code finds them: by recursion where the number is no power of two."""
    power = 2 ** math.floor(math.log2(num_heads))
    start = 2 ** (-(2 ** -(math.log2(power) - 3)))
    slopes = [start ** (i + 1) for i in range(power)]
    if power < num_heads:
        slopes += alibi(2 * power)[0::2].tolist()[: num_heads - power]
    return torch.tensor(slopes)


def turn_halves(x: Tensor, theta: float = 10_000.0) -> Tensor:
    size = x.shape[-1]
    rate = theta ** (-torch.arange(0, size, 2).float() / size)
    angle = torch.outer(torch.arange(x.shape[1]).float(), rate)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def chatglm_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    size, inner = config["hidden_size"], config["ffn_hidden_size"]
    groups = config["multi_query_group_num"]
    qkv = (config["num_attention_heads"] + 2 * groups) * config["kv_channels"]
    shapes = {
        "transformer.embedding.word_embeddings.weight": (config["padded_vocab_size"], size),
        "transformer.encoder.final_layernorm.weight": (size,),
        "transformer.output_layer.weight": (config["padded_vocab_size"], size),
    }
    for i in range(config["num_layers"]):
        layer = f"transformer.encoder.layers.{i}"
        shapes |= {
            f"{layer}.input_layernorm.weight": (size,),
            f"{layer}.self_attention.query_key_value.weight": (qkv, size),
            f"{layer}.self_attention.query_key_value.bias": (qkv,),
            f"{layer}.self_attention.dense.weight": (size, size),
            f"{layer}.post_attention_layernorm.weight": (size,),
            f"{layer}.mlp.dense_h_to_4h.weight": (2 * inner, size),
            f"{layer}.mlp.dense_4h_to_h.weight": (size, inner),
        }
    return shapes


def chatglm(config: Config, w: Weights, token_ids: Tensor) -> Tensor:
    """Logits [tokens, vocabulary]."""
    size, eps = config["kv_channels"], config["layernorm_epsilon"]
    num_heads, groups = config["num_attention_heads"], config["multi_query_group_num"]
    theta = 10_000.0 * config.get("rope_ratio", 1)
    x = w["transformer.embedding.word_embeddings.weight"][token_ids]
    for i in range(config["num_layers"]):
        layer = f"transformer.encoder.layers.{i}"
        attention, mlp = f"{layer}.self_attention", f"{layer}.mlp"
        y = rms_norm(x, w[f"{layer}.input_layernorm.weight"], eps)
        bias = w[f"{attention}.query_key_value.bias"]
        y = linear(y, w[f"{attention}.query_key_value.weight"], bias)
        q, k, v = y.split([num_heads * size, groups * size, groups * size], dim=-1)
        q = turn_pairs(heads(q, num_heads), theta)
        k = turn_pairs(heads(k, groups), theta)
        k, v = (t.repeat_interleave(num_heads // groups, dim=0) for t in (k, heads(v, groups)))
        x = x + linear(attend(q, k, v), w[f"{attention}.dense.weight"])
        y = rms_norm(x, w[f"{layer}.post_attention_layernorm.weight"], eps)
        gate, up = linear(y, w[f"{mlp}.dense_h_to_4h.weight"]).chunk(2, dim=-1)
        x = x + linear(silu(gate) * up, w[f"{mlp}.dense_4h_to_h.weight"])
    x = rms_norm(x, w["transformer.encoder.final_layernorm.weight"], eps)
    return linear(x, w["transformer.output_layer.weight"])


def turn_pairs(x: Tensor, theta: float) -> Tensor:
    """The first half of each head, neighbours together."""
    size = x.shape[-1] // 2
    rate = theta ** (-torch.arange(0, size, 2).float() / size)
    angle = torch.outer(torch.arange(x.shape[1]).float(), rate)
    a, b = x[..., 0:size:2], x[..., 1:size:2]
    turned = [a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()]
    return torch.cat([torch.stack(turned, dim=-1).flatten(-2), x[..., size:]], dim=-1)
