"""fp32 and bf16 weights, in tiles of 16 output features that lie side by side."""

from dataclasses import dataclass

import torch

from nimlite.quant.base import PackedWeight, from_tiles, to_tiles
from nimlite.quant.rounded import RoundedMatrix


@dataclass(frozen=True, slots=True)
class DenseScheme:
    """Plain numbers: activations and sums are fp32, the weights are widened as they are read."""

    name: str
    dtype: torch.dtype
    columns_multiple_of: int = 1

    def pack(self, weight_NC: torch.Tensor) -> PackedWeight:
        """weight [N/16, C, 16]."""
        num_rows, num_columns = weight_NC.shape
        tiles = to_tiles(weight_NC.to(self.dtype)).transpose(1, 2).contiguous()
        return PackedWeight(self.name, num_rows, num_columns, {"weight": tiles})

    def pack_rounded(self, weight: RoundedMatrix) -> PackedWeight:
        """What it stands for."""
        return self.pack(weight.dequantized())

    def unpack(self, weight: PackedWeight) -> torch.Tensor:
        tiles = weight.tensors["weight"].transpose(1, 2)
        return from_tiles(tiles, weight.num_rows).float()

    def linear(self, x_TC: torch.Tensor, weight: PackedWeight) -> torch.Tensor:
        return x_TC.float() @ self.unpack(weight).T
