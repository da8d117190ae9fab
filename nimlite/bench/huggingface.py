"""The checkpoint as a Hugging Face directory: what the peers read."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from nimlite.build.checkpoint import Checkpoint


def export_huggingface(checkpoint: Checkpoint, directory: Path) -> None:
    """Write config.json, the weights in bf16 and the tokenizer; `directory` must be there.

    The peers then have our reading of the file, so that all systems compute the same model.
    """
    config = {**checkpoint.config, "torch_dtype": "bfloat16"}
    (directory / "config.json").write_text(json.dumps(config))
    weights = {name: checkpoint.tensor(name).to(torch.bfloat16) for name in checkpoint.names}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    checkpoint.save_tokenizer(directory)
