"""A model's activations on a text, linear by linear, from the fp32 reference."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import torch
from tokenizers import Tokenizer

from nimlite.build.checkpoint import Checkpoint
from nimlite.build.reference import Observer, Reference
from nimlite.build.staging import CPU
from nimlite.models.spec import ModelSpec

_TEXTS = ("varied.txt", "luke.txt")
_MAX_TOKENS = 512
"""Of a text. Longer ones are cut into pieces."""


def default_text() -> str:
    """The texts that come with nimlite: no part of those that an engine is judged on."""
    directory = resources.files("nimlite.build").joinpath("data", "calibration")
    return "\n".join(directory.joinpath(name).read_text(encoding="utf-8") for name in _TEXTS)


def calibration_texts(tokenizer_file: Path, text: str, max_tokens: int) -> list[list[int]]:
    """`text` in pieces of token ids, of at most `max_tokens` together."""
    token_ids = Tokenizer.from_file(str(tokenizer_file)).encode(text).ids[:max_tokens]
    return [token_ids[i : i + _MAX_TOKENS] for i in range(0, len(token_ids), _MAX_TOKENS)]


def calibrate(
    checkpoint: Checkpoint,
    spec: ModelSpec,
    texts: Sequence[Sequence[int]],
    observer: Observer,
    device: torch.device = CPU,
) -> None:
    """Call `observer` for every linear of every layer in the order of computation. One layer's
    weights and activations are in memory at a time. Texts are cut to what the model can take.

    Raises ModelError where a tensor can't be read.
    """
    texts = [text[: spec.max_positions] for text in texts]
    Reference(checkpoint, spec, device, observer).run(texts)
