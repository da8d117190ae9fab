"""Random weights of any config, for benchmarks and tests of models whose weights are not at
hand."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from nimlite.build.huggingface import TOKENIZER_FILES
from nimlite.build.staging import Staging
from nimlite.build.tokenizer_files import SpecialTokens, byte_tokenizer, write_tokenizer
from nimlite.models.registry import read_spec, weight_sources
from nimlite.models.spec import Stored, WeightSource

PROVENANCE = "Random weights"
_BRANCHES = 2.0
"""How large the sum of all layers' outputs is, about, beside the embedding."""


class RandomCheckpoint:
    """Normally distributed weights in bf16, the same for the same config and seed on every CPU, and
    on every GPU.

    The tokenizer is that of the directory `tokenizer`, or has a token for each byte.
    """

    def __init__(
        self, config: Mapping[str, Any], *, seed: int = 0, tokenizer: Path | None = None
    ) -> None:
        self.config = config
        self._seed = seed
        self._tokenizer = tokenizer
        self._spec = read_spec(config)

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset(self._tensors)

    @cached_property
    def _tensors(self) -> Mapping[str, tuple[str, WeightSource, Stored]]:
        """By the checkpoint's name: the engine tensor that it is part of, and how."""
        return {
            stored.name: (name, source, stored)
            for name, source in weight_sources(self._spec).items()
            for stored in source.tensors
        }

    @property
    def digest(self) -> str:
        identity = [self.config, self._seed, str(self._tokenizer)]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    @property
    def provenance(self) -> str:
        return f"{PROVENANCE} of a {self._spec.architecture}, seed {self._seed}"

    @property
    def embedding(self) -> None:
        """It says nothing of them."""
        return None

    @property
    def license_files(self) -> tuple[Path, ...]:
        return ()

    def tensor(self, name: str) -> torch.Tensor:
        return self.stored(name, Staging()).float()

    def stored(self, name: str, staging: Staging) -> torch.Tensor:
        engine_name, source, stored = self._tensors[name]
        shape, device = stored.shape, staging.device
        # A seed for every tensor: the order in which they are read does not matter.
        seed = hashlib.sha256(f"{self._seed} {name}".encode()).digest()[:8]
        with staging.on_device():
            if engine_name.endswith("norm"):
                return torch.full(shape, 1.0 - source.offset, device=device)
            generator = torch.Generator(device)
            generator.manual_seed(int.from_bytes(seed, "little", signed=True))
            tensor = torch.empty(shape, dtype=torch.bfloat16, device=device)
            deviation = self._deviation(engine_name, source.shape[-1])
            return tensor.normal_(0.0, deviation, generator=generator)

    def _deviation(self, engine_name: str, num_inputs: int) -> float:
        """Of a tensor's values: as in trained models, a layer adds a little to what passes it.

        With deep models of plain random matrices each layer multiplies the rounding of those
        before: after 32 layers fp8 differs by 60 % from fp32, and nothing could be tested by it.
        The outputs of layers are scaled as GPT-2's initialization does (Radford et al., 2019).
        """
        spec = self._spec
        embedding = spec.hidden_size**-0.5 if spec.tie_embeddings else 1 / spec.embedding_scale
        match engine_name.rpartition(".")[2]:
            case "embedding" | "positions":
                return float(embedding)
            case "qkv" | "cross_q" | "cross_kv" if spec.attention_scale == 1.0:
                return float((spec.head_dim**0.5 * num_inputs) ** -0.5)  # of T5, in its weights
            case "output" | "cross_output" | "down" | "experts_down":
                stream = embedding * spec.embedding_scale
                layers = _BRANCHES * stream * (2 * spec.num_layers) ** -0.5
                return float(layers * num_inputs**-0.5)
        return float(num_inputs**-0.5)

    def save_tokenizer(self, directory: Path) -> None:
        if self._tokenizer is None:
            tokenizer, special = byte_tokenizer(), SpecialTokens(eos_ids=(256,), pad_id=256)
            write_tokenizer(directory, tokenizer, special, self._spec.max_positions)
            return
        for name in TOKENIZER_FILES:
            if (self._tokenizer / name).is_file():
                shutil.copyfile(self._tokenizer / name, directory / name)
