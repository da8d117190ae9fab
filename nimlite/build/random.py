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
from nimlite.models.shapes import checkpoint_shape

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
        sources = weight_sources(self._spec).values()
        return frozenset(name for source in sources for name in source.names)

    @property
    def digest(self) -> str:
        identity = [self.config, self._seed, str(self._tokenizer)]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    @property
    def provenance(self) -> str:
        return f"Random weights of a {self._spec.architecture}, seed {self._seed}"

    @property
    def license_files(self) -> tuple[Path, ...]:
        return ()

    def tensor(self, name: str) -> torch.Tensor:
        return self.stored(name, Staging()).float()

    def stored(self, name: str, staging: Staging) -> torch.Tensor:
        shape, device = checkpoint_shape(self._spec, name), staging.device
        # A seed for every tensor: the order in which they are read does not matter.
        seed = hashlib.sha256(f"{self._seed} {name}".encode()).digest()[:8]
        with staging.on_device():
            if "norm" in name:
                return torch.ones(shape, device=device)
            generator = torch.Generator(device)
            generator.manual_seed(int.from_bytes(seed, "little", signed=True))
            tensor = torch.empty(shape, dtype=torch.bfloat16, device=device)
            return tensor.normal_(0.0, self._deviation(name, shape), generator=generator)

    def _deviation(self, name: str, shape: tuple[int, ...]) -> float:
        """Of a tensor's values: as in trained models, a layer adds a little to what passes it.

        With deep models of plain random matrices each layer multiplies the rounding of those
        before: after 32 layers fp8 differs by 60 % from fp32, and nothing could be tested by it.
        The outputs of layers are scaled as GPT-2's initialization does (Radford et al., 2019).
        """
        embedding = self._spec.hidden_size**-0.5 if self._spec.tie_embeddings else 1.0
        if "embed" in name:
            return embedding
        if "o_proj" in name or "down_proj" in name:
            layers = _BRANCHES * embedding * (2 * self._spec.num_layers) ** -0.5
            return float(layers * shape[-1] ** -0.5)
        return float(shape[-1] ** -0.5)

    def save_tokenizer(self, directory: Path) -> None:
        if self._tokenizer is None:
            tokenizer, special = byte_tokenizer(), SpecialTokens(eos_ids=(256,), pad_id=256)
            write_tokenizer(directory, tokenizer, special, self._spec.max_positions)
            return
        for name in TOKENIZER_FILES:
            if (self._tokenizer / name).is_file():
                shutil.copyfile(self._tokenizer / name, directory / name)
