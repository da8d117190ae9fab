"""Weight formats: each a pair convert/apply (`pack`, `unpack`) and its plain-torch linear."""

from collections.abc import Mapping
from types import MappingProxyType

import torch

from nimlite.quant.base import GROUP, TILE, PackedWeight, Scheme
from nimlite.quant.dense import DenseScheme
from nimlite.quant.grouped import Int4Scheme, Int8Scheme
from nimlite.quant.rows import Fp8RowsScheme, Int8RowsScheme

__all__ = ["GROUP", "SCHEMES", "TILE", "PackedWeight", "Scheme", "scheme_for", "unpack"]

SCHEMES: Mapping[str, Scheme] = MappingProxyType(
    {
        scheme.name: scheme
        for scheme in (
            DenseScheme("fp32", torch.float32),
            DenseScheme("bf16", torch.bfloat16),
            Int8Scheme(),
            Int4Scheme(),
            Int8RowsScheme(),
            Int4Scheme("int4_wo", keeps_activations=True),
            Fp8RowsScheme(),
        )
    }
)


def scheme_for(name: str, num_columns: int) -> Scheme:
    """The scheme `name`, or bf16 where its groups do not divide `num_columns`."""
    scheme = SCHEMES[name]
    return SCHEMES["bf16"] if num_columns % scheme.columns_multiple_of else scheme


def unpack(weight: PackedWeight) -> torch.Tensor:
    """The fp32 weight [N, C] that `weight` stands for."""
    return SCHEMES[weight.scheme].unpack(weight)
