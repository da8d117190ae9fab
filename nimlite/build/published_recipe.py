"""The rounding that a checkpoint was published with, kept where a precision is of its kind."""

import torch

from nimlite.build.checkpoint import Checkpoint
from nimlite.build.huggingface import HuggingFaceCheckpoint
from nimlite.build.parts import row_order, sources_of
from nimlite.build.recipe import Recipe
from nimlite.build.staging import Staging
from nimlite.models.spec import ModelSpec
from nimlite.profiles.manifest import Precision
from nimlite.quant.rounded import RoundedMatrix, can_be_stacked, stacked

_KINDS = {
    Precision.FP8: "fp8",
    Precision.INT8: "int8",
    Precision.INT8_SQ: "int8",
    Precision.INT8_WO: "int8",
    Precision.INT4: "int4",
    Precision.INT4_AWQ: "int4",
    Precision.INT4_GPTQ: "int4",
}


def published_recipe(
    precision: Precision, checkpoint: Checkpoint, spec: ModelSpec
) -> Recipe | None:
    """Keeps what is published; None where it is floats or of another kind than the precision, which
    then rounds what it stands for. Raises ModelError where a tensor can't be read."""
    if not isinstance(checkpoint, HuggingFaceCheckpoint):
        return None
    kind, sources = _KINDS.get(precision), sources_of(checkpoint, spec)
    first = checkpoint.rounded(sources["layers.0.output"].names[0], Staging())
    if first is None or first.kind != kind:
        return None

    def keep(name: str, weight_NC: torch.Tensor) -> RoundedMatrix | None:
        found = [checkpoint.rounded(part, Staging()) for part in sources[name].names]
        parts = [part for part in found if part is not None and part.kind == kind]
        if len(parts) < len(found) or not can_be_stacked(parts):
            return None
        whole = stacked(parts)
        if (order := row_order(sources[name])) is not None:
            whole = whole.reordered(order)
        is_a_share = whole.values_NC.shape != weight_NC.shape
        return None if is_a_share else whole.to(weight_NC.device)

    return Recipe(quantizer=keep, rounds_experts=True)
