"""GGUF files (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): llama.cpp's, dequantized
to fp32."""

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from nimlite.build.checkpoint import license_files
from nimlite.build.gguf_rope import rope_parameters
from nimlite.build.gguf_tokenizer import save_gguf_tokenizer
from nimlite.build.staging import Staging
from nimlite.errors import ModelError
from nimlite.store.digest import Sha256, sha256_of

_ARCHITECTURES = {"llama": "LlamaForCausalLM"}

_MODULES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class GGUFCheckpoint:
    """A GGUF file of a Llama. It is parsed (seconds) when something in it is first asked for."""

    def __init__(self, path: Path, sha256: Sha256 = sha256_of) -> None:
        self._path = path
        self._sha256 = sha256

    @cached_property
    def config(self) -> Mapping[str, Any]:
        architecture = self._field("general.architecture")
        if architecture not in _ARCHITECTURES:
            raise ModelError(
                f"{self._path} is a GGUF of the architecture {architecture!r}; supported are"
                f" {', '.join(_ARCHITECTURES)}. Give the Hugging Face checkpoint if it has one."
            )
        hidden_size, num_heads = (
            self._field("llama.embedding_length"),
            self._field("llama.attention.head_count"),
        )
        head_dim = self._field("llama.attention.key_length", hidden_size // num_heads)
        if self._field("llama.expert_count", 0):
            raise ModelError(f"{self._path} is a mixture of experts, which is not supported yet.")
        return {
            "architectures": [_ARCHITECTURES[architecture]],
            "model_type": "llama",
            "num_hidden_layers": self._field("llama.block_count"),
            "hidden_size": hidden_size,
            "intermediate_size": self._field("llama.feed_forward_length"),
            "num_attention_heads": num_heads,
            "num_key_value_heads": self._field("llama.attention.head_count_kv", num_heads),
            "head_dim": head_dim,
            "vocab_size": int(self._tensors["model.embed_tokens.weight"].shape[1]),
            "max_position_embeddings": self._field("llama.context_length"),
            # Stored as fp32: 1e-05, not 9.999999747378752e-06.
            "rms_norm_eps": float(
                str(np.float32(self._field("llama.attention.layer_norm_rms_epsilon")))
            ),
            "hidden_act": "silu",
            "rope_parameters": rope_parameters(self._field, self._rope_factors, head_dim),
            "attention_bias": "model.layers.0.self_attn.q_proj.bias" in self._tensors,
            "mlp_bias": "model.layers.0.mlp.gate_proj.bias" in self._tensors,
            "tie_word_embeddings": "lm_head.weight" not in self._tensors,
        }

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset(self._tensors)

    @cached_property
    def digest(self) -> str:
        return self._sha256(self._path)

    @property
    def provenance(self) -> str:
        types = sorted({t.tensor_type.name for t in self._tensors.values()})
        return (
            f"{self._field('general.name', self._path.stem)} by"
            f" {self._field('general.organization', 'an unnamed organization')}, licence"
            f" {self._field('general.license', 'unstated')}, from the GGUF file"
            f" {self._path.name} ({', '.join(types)}), dequantized"
        )

    @property
    def embedding(self) -> None:
        """It says nothing of them."""
        return None

    @property
    def license_files(self) -> tuple[Path, ...]:
        return license_files(self._path.parent)

    def tensor(self, name: str) -> torch.Tensor:
        stored = self._tensors[name]
        try:
            values = gguf.dequantize(stored.data, stored.tensor_type)
        except NotImplementedError as error:
            raise ModelError(
                f"{name} in {self._path} is {stored.tensor_type.name}, which is not read. Take the"
                " model's Q8_0, K-quant, BF16 or F16 file, or make one with llama.cpp's"
                " llama-quantize."
            ) from error
        tensor = torch.from_numpy(np.array(values, dtype=np.float32))
        if re.search(r"self_attn\.[qk]_proj", name):
            kind = "num_attention_heads" if ".q_proj" in name else "num_key_value_heads"
            return _to_half_split(tensor, self.config[kind])
        return tensor

    def stored(self, name: str, staging: Staging) -> torch.Tensor:
        with staging.on_device():
            return self.tensor(name).to(staging.device)

    def save_tokenizer(self, directory: Path) -> None:
        save_gguf_tokenizer(self._field, directory, self._path)

    @cached_property
    def _reader(self) -> Any:
        try:
            return gguf.GGUFReader(self._path)
        except (ValueError, IndexError, KeyError, OverflowError) as error:
            raise ModelError(
                f"{self._path} can't be read as GGUF ({error}). It is truncated or damaged, or"
                " of a version that the gguf package does not know: download it again."
            ) from error

    @cached_property
    def _tensors(self) -> Mapping[str, Any]:
        """The stored tensors by Hugging Face name."""
        named = ((hugging_face_name(t.name), t) for t in self._reader.tensors)
        return {name: tensor for name, tensor in named if name}

    @cached_property
    def _rope_factors(self) -> torch.Tensor | None:
        stored = (t for t in self._reader.tensors if t.name == "rope_freqs.weight")
        return next((torch.from_numpy(np.array(t.data, np.float32)) for t in stored), None)

    def _field(self, key: str, *default: Any) -> Any:
        """A metadata value. Raises ModelError for one that is neither there nor has a default."""
        field = self._reader.get_field(key)
        if field is not None:
            return field.contents()
        if default:
            return default[0]
        raise ModelError(f"{self._path} lacks the metadata {key!r}: it is not a whole GGUF model.")


def hugging_face_name(name: str) -> str | None:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight; None for what is no weight."""
    match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
    if match is None or match[2] not in _MODULES:
        return None
    prefix = f"model.layers.{match[1]}." if match[1] else ""
    return f"{prefix}{_MODULES[match[2]]}.{match[3]}"


def _to_half_split(tensor: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Undo llama.cpp's order of the rows of a head: it rotates neighbours, Hugging Face halves."""
    pairs = tensor.reshape(num_heads, -1, 2, *tensor.shape[1:])
    return pairs.transpose(1, 2).reshape(tensor.shape)
