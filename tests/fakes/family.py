"""Tiny random models of any family, as the engine and as transformers run them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from fakes.llama import Llama, save_random
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from nimlite.build.checkpoint import open_checkpoint
from nimlite.models.spec import NUM_SOURCE_TOKENS


@dataclass(frozen=True, eq=False)
class TinyModel(Llama):
    """A checkpoint of another architecture."""

    model: PreTrainedModel
    """transformers' own, which it was saved by."""

    @property
    def reference(self) -> PreTrainedModel:
        return self.model


@dataclass(frozen=True, eq=False)
class TinyEncoderDecoder(TinyModel):
    """One whose encoder has read the beginning of a text, unless another source is given."""

    @torch.inference_mode()
    def reference_logits(
        self, token_ids: Sequence[int], source: Sequence[int] | None = None
    ) -> torch.Tensor:
        source = token_ids[:NUM_SOURCE_TOKENS] if source is None else source
        given, text = torch.tensor([list(source)]), torch.tensor([list(token_ids)])
        return self.reference(input_ids=given, decoder_input_ids=text).logits[0]


def tiny_encoder_decoder(
    config: PreTrainedConfig, directory: Path, embedding: float = 4.0
) -> TinyEncoderDecoder:
    """As `tiny_model`."""
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(config).float().eval()
    home = save_random(model, directory, embedding)
    return TinyEncoderDecoder(open_checkpoint(home), directory / "weights", model)


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
