"""A model's activations on a text, linear by linear, from the fp32 reference."""

from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

import torch
from tokenizers import Tokenizer

from nimlite.build.checkpoint import Checkpoint
from nimlite.build.reference import Reference
from nimlite.build.staging import CPU
from nimlite.models.spec import ModelSpec

Measure = Callable[[str, torch.Tensor, torch.Tensor], torch.Tensor | None]
"""Called with the name of a linear as the engine fuses it, its input x_TC, and its weight_NC. What
follows is computed with the weight that it gives back; None: with the linear's own."""
MeasureBeside = Callable[[str, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""The same, with the input of the exact model behind that of the rounded one."""

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
    measure: Measure,
    device: torch.device = CPU,
) -> None:
    """Call `measure` for every linear of every layer in the order of computation. One layer's
    weights and activations are in memory at a time. Texts are cut to what the model can take.

    Raises ModelError where a tensor can't be read.
    """

    def observe(name: str, x_TC: torch.Tensor, weight_NC: torch.Tensor) -> torch.Tensor | None:
        replaced_NC = measure(name, x_TC, weight_NC)
        return None if replaced_NC is None else x_TC @ replaced_NC.T

    texts = [text[: spec.max_positions] for text in texts]
    Reference(checkpoint, spec, device, observe).run(texts)


def calibrate_beside_exact(
    checkpoint: Checkpoint,
    spec: ModelSpec,
    texts: Sequence[Sequence[int]],
    measure: MeasureBeside,
    device: torch.device = CPU,
) -> None:
    """The same with two models side by side, a batch of both: one goes on with its own weights, the
    other with those that `measure` gives."""

    def observe(name: str, x_TC: torch.Tensor, weight_NC: torch.Tensor) -> torch.Tensor:
        exact_TC, x_TC = x_TC.chunk(2)
        replaced_NC = measure(name, x_TC, exact_TC, weight_NC)
        return torch.cat([exact_TC @ weight_NC.T, x_TC @ replaced_NC.T])

    texts = [text[: spec.max_positions] for text in texts]
    Reference(checkpoint, spec, device, observe).run([*texts, *texts])
