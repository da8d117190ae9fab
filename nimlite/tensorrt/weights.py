"""Weights as a GPU's kernels hold them, as segments take them.

N, C output and input features   G groups along a row
"""

from functools import partial

import torch

from nimlite.kernels.triton.weights import from_words
from nimlite.quant.base import PackedWeight
from nimlite.quant.rtn import GROUP_SIZE, group_size_for
from nimlite.tensorrt.decoder import Bind, Tensors
from nimlite.tensorrt.runtime import UnavailableError
from nimlite.tensorrt.segment import WeightFormat

_SCHEMES: dict[str, WeightFormat] = {
    "bf16_rows": "dense",
    "fp16_rows": "dense",
    "fp8_rows": "fp8",
    "int8_rows": "int8_dynamic",
    "w8a16": "int8",
    "w4a16": "int4",
}


def binder(weights: WeightFormat, max_group: int = GROUP_SIZE) -> Bind:
    """How a model's weights become the ports of segments that take `weights`, int4 in groups of at
    most `max_group`.

    Rows are used where they lie; words of 4- and 8-bit fields are laid out anew, which takes their
    memory again. It raises UnavailableError for a weight in another format: of a published
    checkpoint some may be.
    """
    return partial(_bind, weights, max_group)


def _bind(weights: WeightFormat, max_group: int, weight: PackedWeight) -> Tensors:
    tensors, columns = weight.tensors, weight.num_columns
    if _SCHEMES.get(weight.scheme) != weights:
        raise UnavailableError(f"its plans take {weights} weights, and some are {weight.scheme}")
    if weights == "dense":
        return {"": tensors["weight"]}
    if weights in ("fp8", "int8_dynamic"):
        return {"": tensors["weight"], ".scales": tensors["scale"]}
    if "order" in tensors:
        raise UnavailableError("its plans take columns in their own order, and some are sorted")
    num_groups = len(tensors["scale"])
    wanted = 1 if weights == "int8" else columns // min(group_size_for(columns), max_group)
    if num_groups != wanted:
        raise UnavailableError(
            f"its plans take {wanted} scales for a row of {columns} {weights} weights, and some"
            f" have {num_groups}"
        )
    return _int8(weight) if weights == "int8" else _int4(weight)


def _int8(weight: PackedWeight) -> Tensors:
    values_NC = from_words(weight.tensors["weight"], 8, weight.num_columns)
    scale_N = weight.tensors["scale"].float().flatten()
    return {"": values_NC.contiguous().view(torch.int8), ".scales": scale_N}


def _int4(weight: PackedWeight) -> Tensors:
    """Each group as a row: values q in -8 … 7, w = q * scale + offset."""
    tensors = weight.tensors
    scale_NG, zero_NG = (tensors[name].T.float().contiguous() for name in ("scale", "zero"))
    # 0 … 15 less 8 in two's complement: the highest of the four bits turned over
    values = from_words(tensors["weight"], 4, weight.num_columns).reshape(scale_NG.numel(), -1) ^ 8
    return {
        "": values[:, 0::2] | values[:, 1::2] << 4,
        ".scales": scale_NG.flatten(),
        ".offsets": ((8 - zero_NG) * scale_NG).flatten(),
    }
