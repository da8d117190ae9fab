"""int8 weight-only and fp8: a scale a row, in tiles of 16 output features that lie side by side,
and multiplied in fp32."""

from dataclasses import dataclass, replace

import torch

from nimlite.quant.base import TILE, PackedWeight, from_tiles, to_tiles
from nimlite.quant.dense import DenseScheme
from nimlite.quant.fp8 import round_inputs
from nimlite.quant.rounded import RoundedMatrix
from nimlite.quant.rtn import nearest_fp8, nearest_int8


@dataclass(frozen=True, slots=True)
class Int8RowsScheme:
    """Weight-only: activations stay as they are."""

    name: str = "int8_wo"
    columns_multiple_of: int = 1

    def pack(self, weight_NC: torch.Tensor) -> PackedWeight:
        """To nearest."""
        return self.pack_rounded(nearest_int8(weight_NC))

    def pack_rounded(self, weight: RoundedMatrix) -> PackedWeight:
        """The same values where a row has one scale and no zero; else what they stand for, in
        bf16."""
        if not _is_a_scale_a_row(weight, "int8"):
            return DenseScheme("bf16", torch.bfloat16).pack(weight.dequantized())
        return _packed(self.name, weight)

    def unpack(self, weight: PackedWeight) -> torch.Tensor:
        return _unpacked(weight)

    def linear(self, x_TC: torch.Tensor, weight: PackedWeight) -> torch.Tensor:
        return x_TC.float() @ self.unpack(weight).T


@dataclass(frozen=True, slots=True)
class Fp8RowsScheme:
    """e4m3; activations are rounded to it too, by `input_scale` where the weight has one, else each
    row by its own largest."""

    name: str = "fp8"
    columns_multiple_of: int = 1

    def pack(self, weight_NC: torch.Tensor) -> PackedWeight:
        """To nearest."""
        return self.pack_rounded(nearest_fp8(weight_NC))

    def pack_rounded(self, weight: RoundedMatrix) -> PackedWeight:
        """The same values where a row has one scale; else what they stand for, rounded again."""
        if not _is_a_scale_a_row(weight, "fp8"):
            rounded = nearest_fp8(weight.dequantized())
            weight = replace(rounded, input_scale=weight.input_scale)
        return _packed(self.name, weight)

    def unpack(self, weight: PackedWeight) -> torch.Tensor:
        return _unpacked(weight)

    def linear(self, x_TC: torch.Tensor, weight: PackedWeight) -> torch.Tensor:
        return round_inputs(x_TC, weight.input_scale) @ self.unpack(weight).T


def _is_a_scale_a_row(weight: RoundedMatrix, kind: str) -> bool:
    return (
        weight.kind == kind
        and weight.zeros_NG is None
        and weight.order_C is None
        and weight.scales_NG.shape[1] == 1
    )


def _packed(name: str, weight: RoundedMatrix) -> PackedWeight:
    """weight [N/16, C, 16], scale fp32 [N/16, 16]."""
    num_rows, num_columns = weight.values_NC.shape
    # a view of bytes: not every operation knows fp8
    tiles = to_tiles(weight.values_NC.view(torch.int8)).transpose(1, 2).contiguous()
    tensors = {
        "weight": tiles.view(weight.values_NC.dtype),
        "scale": to_tiles(weight.scales_NG.float())[:, :, 0].contiguous(),
    }
    if weight.input_scale is not None:
        tensors["input_scale"] = torch.tensor([weight.input_scale])
    return PackedWeight(name, num_rows, num_columns, tensors)


def _unpacked(weight: PackedWeight) -> torch.Tensor:
    scale = weight.tensors["scale"].reshape(-1, TILE, 1)
    return from_tiles(weight.tensors["weight"].float().transpose(1, 2) * scale, weight.num_rows)
