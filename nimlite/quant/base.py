"""A linear layer's weight as the engine holds it, and what a weight format offers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from nimlite.quant.rounded import RoundedMatrix

TILE = 16
"""Output features in a tile: one 512-bit register of fp32. Rows are padded with zeros to whole
tiles."""
GROUP = 32
"""Input features that share one scale."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class PackedWeight:
    """A weight [N, C] in the layout of its scheme. `tensors` are what lies in the engine file.

    Compared by identity, so that a device can keep what it derives from a weight beside it.
    """

    scheme: str
    """A key of `quant.SCHEMES`, or of a GPU's."""
    num_rows: int
    num_columns: int
    tensors: Mapping[str, torch.Tensor]
    """fp32, bf16: weight [N/16, C, 16].
    int8: weight uint8 [N/16, C/32, 8, 16, 4] (value + 128), scale fp16 [N/16, C/32, 16].
    int4: weight uint8 [N/16, C/32, 4, 16, 4] (low nibble: columns 8p+0..3, high nibble: 8p+4..7),
    scale and minimum fp16 [N/16, C/32, 16]; value = q * scale + minimum. int4_wo: the same.
    int8_wo, fp8: weight int8 or e4m3 [N/16, C, 16], scale fp32 [N/16, 16]; fp8 may have
    input_scale fp32 [1]: what activations are divided by before they are rounded."""

    @property
    def num_tiles(self) -> int:
        return -(-self.num_rows // TILE)

    @property
    def input_scale(self) -> float | None:
        """None: activations are not rounded, or each row by its own largest."""
        scale = self.tensors.get("input_scale")
        return None if scale is None else float(scale)


class Scheme(Protocol):
    """A weight format. `pack` and `unpack` are the pair convert/apply; `linear` defines the
    arithmetic of its kernels."""

    @property
    def name(self) -> str:
        """Its key in `SCHEMES`."""

    @property
    def columns_multiple_of(self) -> int:
        """What the number of columns must be divisible by."""

    def pack(self, weight_NC: torch.Tensor) -> PackedWeight:
        """Round an fp32 weight to the format and lay it out in tiles."""

    def pack_rounded(self, weight: RoundedMatrix) -> PackedWeight:
        """Lay out a weight that is rounded already. Where the format can't hold it, it is held in
        one as fine."""

    def unpack(self, weight: PackedWeight) -> torch.Tensor:
        """The fp32 weight [N, C] that the packed one stands for."""

    def linear(self, x_TC: torch.Tensor, weight: PackedWeight) -> torch.Tensor:
        """y_TN in fp32, rounding the activations as the kernels do: the reference they are tested
        against."""


def to_tiles(weight_NC: torch.Tensor) -> torch.Tensor:
    """[N, C] -> [N/16, 16, C], padded with zero rows."""
    num_rows, num_columns = weight_NC.shape
    padding = -num_rows % TILE
    if padding:
        weight_NC = torch.nn.functional.pad(weight_NC, (0, 0, 0, padding))
    return weight_NC.reshape(-1, TILE, num_columns)


def from_tiles(tiles: torch.Tensor, num_rows: int) -> torch.Tensor:
    """[N/16, 16, …] -> [N, C], without the padding."""
    return tiles.reshape(tiles.shape[0] * TILE, -1)[:num_rows]
