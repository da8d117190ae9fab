"""What a build reads: a model's config, weights and tokenizer, in whatever form they come."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from nimlite.build.staging import Staging
from nimlite.errors import ModelError
from nimlite.models.embedding import EmbeddingSpec
from nimlite.store.digest import Sha256, sha256_of


class Checkpoint(Protocol):
    """A model as its authors gave it. Weights carry Hugging Face's names and layout."""

    @property
    def config(self) -> Mapping[str, Any]:
        """config.json, or what it would be."""

    @property
    def names(self) -> frozenset[str]:
        """The tensors that there are."""

    @property
    def digest(self) -> str:
        """sha256 over everything that shapes an engine: weights, config, tokenizer."""

    @property
    def provenance(self) -> str:
        """One line: whose model, under which licence, in which format."""

    @property
    def embedding(self) -> EmbeddingSpec | None:
        """What it says of its embeddings: a model for them and nothing else; None: it says nothing.
        Raises ModelError for what is not supported."""

    @property
    def license_files(self) -> tuple[Path, ...]:
        """Licences that lie with the weights and must go where they go."""

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor in fp32. Raises ModelError where it can't be read."""

    def stored(self, name: str, staging: Staging) -> torch.Tensor:
        """A tensor on the device of `staging`, in fp32 or the 16-bit float that it is stored in.
        Its copy may still be under way. Several threads may call it, each with its own staging.
        Raises ModelError where it can't be read."""

    def save_tokenizer(self, directory: Path) -> None:
        """Write the files that transformers' AutoTokenizer loads, and generation_config.json."""


def open_checkpoint(path: Path, sha256: Sha256 = sha256_of) -> Checkpoint:
    """The checkpoint in a GGUF file or a Hugging Face directory. `sha256` digests its files.

    Raises ModelError for anything else, saying what was found and what is supported.
    """
    from nimlite.build.gguf import GGUFCheckpoint
    from nimlite.build.huggingface import HuggingFaceCheckpoint

    supported = "Supported are a directory with config.json and *.safetensors, and a GGUF file."
    if path.is_file():
        with path.open("rb") as file:
            if file.read(4) == b"GGUF":
                return GGUFCheckpoint(path, sha256)
        raise ModelError(f"{path} is not a GGUF file (it does not start with GGUF). {supported}")
    if (path / "config.json").is_file():
        return HuggingFaceCheckpoint(path, sha256)
    if not path.is_dir():
        raise ModelError(f"There is no file or directory {path}. {supported}")
    found = sorted(p.name for p in path.iterdir())
    hint = next((f"Give the file itself: {path / n}. " for n in found if n.endswith(".gguf")), "")
    listing = ", ".join(found[:10]) or "nothing"
    raise ModelError(f"{path} has no config.json (it holds {listing}). {hint}{supported}")


def license_files(directory: Path) -> tuple[Path, ...]:
    """The licence files of a directory."""
    names = ("LICENSE*", "LICENCE*", "NOTICE*", "COPYING*")
    return tuple(sorted(p for name in names for p in directory.glob(name) if p.is_file()))
