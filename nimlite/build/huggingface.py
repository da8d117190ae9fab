"""Checkpoints as transformers saves them: config.json, safetensors (sharded or not), tokenizer
files. Weights that are published rounded are handed on dequantized, or as they are rounded."""

import hashlib
import json
import os
import shutil
import weakref
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from nimlite.build.checkpoint import license_files
from nimlite.build.huggingface_config import read_config, read_format, read_json, unreadable
from nimlite.build.published import FP8, StoredModule, quantized_modules, rounded_matrix
from nimlite.build.published_config import OWN_FILES, PublishedFormat
from nimlite.build.safetensors_layout import FileLayout
from nimlite.build.sentence_transformers import read_embedding, sentence_transformers_files
from nimlite.build.staging import Staging
from nimlite.errors import ModelError
from nimlite.models.embedding import EmbeddingSpec
from nimlite.quant.rounded import RoundedMatrix
from nimlite.store.digest import Sha256, digest_files, sha256_of

_INDEX = "model.safetensors.index.json"

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)


class HuggingFaceCheckpoint:
    """A directory in Hugging Face's layout."""

    def __init__(self, path: Path, sha256: Sha256 = sha256_of) -> None:
        self._path = path
        self._sha256 = sha256
        self._files: dict[str, _File] = {}

    @cached_property
    def config(self) -> Mapping[str, Any]:
        return read_config(self._path)

    @cached_property
    def names(self) -> frozenset[str]:
        parts = {name for module in self._modules.values() for name in module.values()}
        weights = {f"{module}.weight" for module in self._modules}
        return (frozenset(self._file_of) - parts) | weights

    @cached_property
    def digest(self) -> str:
        weights = set(self._file_of.values())
        others = [name for name in (*TOKENIZER_FILES, *OWN_FILES) if (self._path / name).is_file()]
        others += ["config.json", *sentence_transformers_files(self._path)]
        digests = digest_files(self._path, weights.union(others), self._sha256)
        text = json.dumps({name: file.sha256 for name, file in digests.items()}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def provenance(self) -> str:
        dtype = self.config.get("dtype", self.config.get("torch_dtype", "unknown dtype"))
        rounded = "" if self._format is None else f", rounded as {self._format.method} has it"
        return f"Hugging Face checkpoint {self._path.name} ({dtype}{rounded})"

    @property
    def embedding(self) -> EmbeddingSpec | None:
        return read_embedding(self._path)

    @property
    def license_files(self) -> tuple[Path, ...]:
        return license_files(self._path)

    def tensor(self, name: str) -> torch.Tensor:
        return self.stored(name, Staging()).float()

    def stored(self, name: str, staging: Staging) -> torch.Tensor:
        rounded = self.rounded(name, staging)
        if rounded is not None:
            with staging.on_device():
                return rounded.dequantized()
        tensor = self._read(name, staging)
        if tensor.dtype is FP8 or not tensor.dtype.is_floating_point:
            raise ModelError(
                f"{name} in {self._path / self._file_of[name]} is"
                f" {str(tensor.dtype).removeprefix('torch.')} without a scale that config.json's"
                " quantization_config tells of, so what it means is not known. Give the whole"
                " quantized checkpoint, or one in bf16, fp16 or fp32."
            )
        return tensor

    def rounded(self, name: str, staging: Staging) -> RoundedMatrix | None:
        """A weight as it is published, on the device of `staging`; None where it is not rounded.
        Raises ModelError where it can't be read."""
        module = name.removesuffix(".weight")
        if self._format is None or module == name or module not in self._modules:
            return None
        parts = self._modules[module]
        tensors = {part: self._read(stored, staging) for part, stored in parts.items()}
        with staging.on_device():
            stored_module = StoredModule(
                name=module,
                directory=self._path,
                files={part: self._file_of[stored] for part, stored in parts.items()},
                tensors=tensors,
            )
            return rounded_matrix(stored_module, self._format)

    def save_tokenizer(self, directory: Path) -> None:
        if not (self._path / "tokenizer.json").is_file():
            raise ModelError(
                f"{self._path} has no tokenizer.json. Where it has another form of tokenizer, make"
                " one with `AutoTokenizer.from_pretrained(directory).save_pretrained(directory)`."
            )
        for name in TOKENIZER_FILES:
            if (self._path / name).is_file():
                shutil.copyfile(self._path / name, directory / name)

    @cached_property
    def _format(self) -> PublishedFormat | None:
        return read_format(self._path)

    @cached_property
    def _modules(self) -> Mapping[str, Mapping[str, str]]:
        """The rounded linear layers and their stored tensors."""
        return {} if self._format is None else quantized_modules(self._format.method, self._file_of)

    def _read(self, name: str, staging: Staging) -> torch.Tensor:
        """A stored tensor of any type."""
        file_name = self._file_of[name]
        try:
            file = self._file(file_name)
            place = file.layout.tensors[name]
            with staging.on_device():
                tensor = torch.empty(place.shape, dtype=place.dtype, device=staging.device)
            staging.read(file.descriptor, place.begin, tensor.view(-1).view(torch.uint8))
        except ModelError:
            raise
        except (OSError, EOFError, ValueError, KeyError) as error:
            raise self._unreadable(file_name, error) from error
        return tensor

    @cached_property
    def _file_of(self) -> Mapping[str, str]:
        """Which file holds which tensor."""
        if (self._path / _INDEX).is_file():
            weight_map = self._json(_INDEX).get("weight_map")
            if not isinstance(weight_map, dict) or not all(
                isinstance(file, str) for file in weight_map.values()
            ):
                raise self._unreadable(_INDEX, ValueError("it has no weight_map"))
            return weight_map
        names = sorted(p.name for p in self._path.glob("*.safetensors"))
        if not names:
            raise ModelError(
                f"{self._path} has no *.safetensors. Weights in pickles (*.bin, *.pt) are not read,"
                " as they can run code: save it with `model.save_pretrained(directory)`."
            )
        file_of: dict[str, str] = {}
        for name in names:
            try:
                file_of |= dict.fromkeys(self._file(name).layout.tensors, name)
            except ModelError:
                raise
            except (OSError, ValueError, KeyError) as error:
                raise self._unreadable(name, error) from error
        return file_of

    def _file(self, name: str) -> "_File":
        if name not in self._files:
            self._files[name] = _File(self._path / name)
        return self._files[name]

    def _json(self, name: str) -> dict[str, Any]:
        return read_json(self._path / name)

    def _unreadable(self, name: str, error: Exception) -> ModelError:
        return unreadable(self._path / name, error)


class _File:
    """Open for as long as it is known."""

    def __init__(self, path: Path) -> None:
        self.layout = FileLayout.read(path)
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self.descriptor)
