"""Tiny random models of any family, as the engine and as transformers run them."""

from dataclasses import dataclass
from pathlib import Path

import torch
from fakes.llama import Llama, save_random
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from nimlite.build.checkpoint import open_checkpoint


@dataclass(frozen=True, eq=False)
class TinyModel(Llama):
    """A checkpoint of another architecture."""

    model: PreTrainedModel
    """transformers' own, which it was saved by."""

    @property
    def reference(self) -> PreTrainedModel:
        return self.model


def tiny_model(
    config: PreTrainedConfig, directory: Path, embedding: float = 4.0, sharpness: float = 1.5
) -> TinyModel:
    """Random weights of the config, saved in `directory`, as `save_random` makes them."""
    torch.manual_seed(0)
    # others forget soft caps
    attention = "eager" if hasattr(config, "attn_logit_softcapping") else None
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).float().eval()
    home = save_random(model, directory, embedding, sharpness)
    return TinyModel(open_checkpoint(home), directory / "weights", model)
