"""config.json, for whoever wants a model's shape without its weights (and without torch)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from nimlite.build.published_config import OWN_FILES, PublishedFormat, published_format
from nimlite.errors import ModelError

T = TypeVar("T")
_DECODER_PROMPT = ("decoder_start_token_id", "forced_bos_token_id")
"""What the text of a decoder with an encoder begins with: part of the model, and written to
generation_config.json by newer versions of transformers."""


def read_config(directory: Path) -> Mapping[str, Any]:
    """The content of config.json, of the weights as they are once dequantized. Raises ModelError
    where it can't be read, or is of weights that are not."""
    read_format(directory)
    config = read_json(directory / "config.json")
    file = directory / "generation_config.json"
    if config.get("is_encoder_decoder") and file.is_file():
        generation = read_json(file)
        config |= {
            key: generation[key] for key in _DECODER_PROMPT if generation.get(key) is not None
        }
    return {key: value for key, value in config.items() if key != "quantization_config"}


def read_format(directory: Path) -> PublishedFormat | None:
    """How the weights are rounded; None where they are floats. Raises as `read_config` does."""
    settings = read_json(directory / "config.json").get("quantization_config")
    if settings is None:
        settings = _own_settings(directory)
    return None if settings is None else published_format(directory, settings)


def _own_settings(directory: Path) -> Mapping[str, Any] | None:
    for name, method in OWN_FILES.items():
        if (directory / name).is_file():
            content = read_json(directory / name)
            content = content.get("quantization", content)  # ModelOpt nests it
            is_float = content.get("quant_algo", "") is None
            return None if is_float else {"quant_method": method} | content
    return None


def read_json(file: Path) -> dict[str, Any]:
    """The object in the file. Raises ModelError where there is something else."""
    return _read_json(file, dict, "object")


def read_json_list(file: Path) -> list[Any]:
    """The array in the file. Raises ModelError where there is something else."""
    return _read_json(file, list, "array")


def _read_json(file: Path, kind: type[T], name: str) -> T:
    try:
        data = json.loads(file.read_text())
        if not isinstance(data, kind):
            raise ValueError(f"it holds no JSON {name}")
        return data
    except ValueError as error:
        raise unreadable(file, error) from error


def unreadable(file: Path, error: Exception) -> ModelError:
    """What to tell of a checkpoint's file."""
    return ModelError(
        f"{file} can't be read ({error}). It is missing, truncated or damaged: copy or download it"
        " again."
    )
