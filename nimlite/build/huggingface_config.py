"""config.json, for whoever wants a model's shape without its weights (and without torch)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nimlite.errors import ModelError


def read_config(directory: Path) -> Mapping[str, Any]:
    """The content of config.json. Raises ModelError where it can't be read, or is of weights that
    are not."""
    config = read_json(directory / "config.json")
    if "quantization_config" in config:
        method = config["quantization_config"].get("quant_method", "unknown")
        raise ModelError(
            f"{directory} holds weights quantized by {method!r}, which is not read yet. Give"
            " the checkpoint in bf16, fp16 or fp32: the profile's precision is made from it."
        )
    return config


def read_json(file: Path) -> dict[str, Any]:
    """Raises ModelError where there is something else in the file."""
    try:
        data: dict[str, Any] = json.loads(file.read_text())
        return data
    except ValueError as error:
        raise unreadable(file, error) from error


def unreadable(file: Path, error: Exception) -> ModelError:
    """What to tell of a checkpoint's file."""
    return ModelError(
        f"{file} can't be read ({error}). It is missing, truncated or damaged: copy or download it"
        " again."
    )
