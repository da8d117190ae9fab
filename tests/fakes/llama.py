"""Llamas as the engine and as transformers run them, from one checkpoint."""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import tokenizers
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from nimlite.build.checkpoint import Checkpoint, open_checkpoint
from nimlite.build.convert import convert
from nimlite.build.tokenizer_files import SpecialTokens, byte_tokenizer, write_tokenizer
from nimlite.build.weights_file import load_weights
from nimlite.engine.cpu import CpuBackend
from nimlite.engine.engine import Engine
from nimlite.engine.sampler import Sampler
from nimlite.engine.speculation import Speculator
from nimlite.kernels.base import Kernels, KVLayout
from nimlite.kernels.torch_kernels import TorchKernels
from nimlite.layers.decoder import Decoder
from nimlite.layers.linear import Weights
from nimlite.layers.model import Model
from nimlite.models.registry import read_spec
from nimlite.models.spec import ModelSpec
from nimlite.observe.bars import LineProgress
from nimlite.profiles.manifest import Device, Precision, Profile

BLOCK_SIZE = 16
EOS_ID = 256
"""Of the byte tokenizer."""
_KV_PRECISION = {Precision.FP32: Precision.FP32}
_EMBEDDINGS = re.compile(r"embed|shared|wte|wpe")
_UNSCALED = re.compile(r"Attention\.q\.")
"""Of T5, whose scores are not scaled later."""
_TINY = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "vocab_size": 272,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "eos_token_id": EOS_ID,
}


@dataclass(frozen=True)
class Llama:
    """A checkpoint, what transformers makes of it, and its engines."""

    checkpoint: Checkpoint
    directory: Path
    """Where converted weights and tokenizer files go."""

    @cached_property
    def spec(self) -> ModelSpec:
        return read_spec(self.checkpoint.config)

    @property
    def home(self) -> Path:
        """Of a random one: where its checkpoint lies."""
        return self.directory.parent / "checkpoint"

    @cached_property
    def reference(self) -> LlamaForCausalLM:
        """transformers' own, in fp32, with every weight read by our reader."""
        model = LlamaForCausalLM(LlamaConfig(**self.checkpoint.config)).eval()
        tensors = {name: self.checkpoint.tensor(name) for name in self.checkpoint.names}
        missing, unexpected = model.load_state_dict(tensors, strict=False)
        tied = {"lm_head.weight"} if self.spec.tie_embeddings else set()
        assert (set(missing), unexpected) == (tied, [])
        return model

    @torch.inference_mode()
    def reference_logits(self, token_ids: Sequence[int]) -> torch.Tensor:
        """transformers' logits_TV."""
        return self.reference(torch.tensor([list(token_ids)])).logits[0]

    @cached_property
    def tokenizer_directory(self) -> Path:
        directory = self.directory / "tokenizer"
        directory.mkdir(parents=True)
        self.checkpoint.save_tokenizer(directory)
        return directory

    @cached_property
    def eos_token_ids(self) -> tuple[int, ...]:
        config = json.loads((self.tokenizer_directory / "generation_config.json").read_text())
        found = config["eos_token_id"]
        return tuple(found) if isinstance(found, list) else (found,)

    def target(self, precision: Precision = Precision.FP32) -> CpuBackend:
        """To build for, in plain torch."""
        return CpuBackend(profile=self.profile(precision), kernels=TorchKernels())

    @cache  # noqa: B019 - as long as the session
    def weights(self, precision: Precision) -> Weights:
        directory = self.directory / precision
        directory.mkdir(parents=True)
        progress = LineProgress(lambda line: None)
        convert(self.checkpoint, self.spec, self.target(precision), 1, directory, progress)
        weights = load_weights(directory)
        shutil.rmtree(directory)  # the mapped file stays readable
        return weights

    def decoder(self, precision: Precision = Precision.FP32) -> Decoder:
        layout = KVLayout(1, BLOCK_SIZE, self.spec.num_kv_heads, self.spec.head_dim, torch.float32)
        return Decoder.load(self.spec, self.weights(precision), layout)

    def profile(
        self, precision: Precision = Precision.FP32, *, num_blocks: int = 256, **limits: int
    ) -> Profile:
        kv_precision = _KV_PRECISION.get(precision, Precision.BF16)
        element_bytes = 4 if kv_precision is Precision.FP32 else 2
        defaults = {
            "max_model_len": self.spec.max_positions,
            "max_batch_size": 64,
            "max_num_tokens": 1024,
            "block_size": BLOCK_SIZE,
        }
        return Profile(
            id="test",
            family="test",
            device=Device.CPU,
            precision=precision,
            kv_precision=kv_precision,
            kv_cache_bytes=int(
                num_blocks * BLOCK_SIZE * self.spec.kv_bytes_per_token(element_bytes)
            ),
            **(defaults | limits),
        )

    def engine(
        self,
        kernels: Kernels,
        precision: Precision = Precision.FP32,
        *,
        kind: type[Engine] = Engine,
        prefix_caching: bool = True,
        sampler: Sampler | None = None,
        dense: Callable[[Decoder], Model] | None = None,
        speculator: Speculator | None = None,
        **limits: int,
    ) -> Engine:
        """`limits`: of the profile, and `num_blocks` of the pool."""
        return kind(
            spec=self.spec,
            weights=self.weights(precision),
            profile=self.profile(precision, **limits),
            kernels=kernels,
            eos_token_ids=self.eos_token_ids,
            tokenizer=tokenizers.Tokenizer.from_file(
                str(self.tokenizer_directory / "tokenizer.json")
            ),
            prefix_caching=prefix_caching,
            sampler=sampler,
            dense=dense,
            speculator=speculator,
        )


def random_llama(directory: Path, *, seed: int = 0, **changes: object) -> Llama:
    """A Llama of a few thousand weights. `changes`: to its config."""
    torch.manual_seed(seed)
    home = save_random(LlamaForCausalLM(LlamaConfig(**(_TINY | changes))), directory)
    return Llama(open_checkpoint(home), directory / "weights")


def save_random(
    model: PreTrainedModel, directory: Path, embedding: float = 4.0, sharpness: float = 1.5
) -> Path:
    """Give the model weights of which every part matters (norms and biases are random too, and the
    matrices so large that attention is sharp), and save it with the byte tokenizer. `embedding`:
    about the length of a token's vector; `sharpness`: what a matrix makes of a vector's length."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(_random(name, parameter, embedding, sharpness))
    home = directory / "checkpoint"
    model.save_pretrained(home)
    special = SpecialTokens(eos_ids=(EOS_ID,), pad_id=EOS_ID)
    length = getattr(model.config, "max_position_embeddings", 256)
    write_tokenizer(home, byte_tokenizer(), special, length)
    return home


def _random(name: str, like: torch.Tensor, embedding: float, sharpness: float) -> torch.Tensor:
    noise = torch.randn(like.shape)
    if like.ndim == 1:
        return 0.2 * noise + (0 if name.endswith("bias") else 1)
    scale = (embedding if _EMBEDDINGS.search(name) else sharpness) * like.shape[1] ** -0.5
    return scale * noise * (0.25 if _UNSCALED.search(name) else 1.0)
