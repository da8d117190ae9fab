"""int8 and int4 weights in groups of 32 input features, multiplied in integers.

The grids are those of GGUF's Q8_0 and Q4_1 (fp16 scale, and minimum), so that a model that comes
from such a file keeps its exact weights. Activations are rounded too, to int8 in the same groups,
which is what lets the dot product run in integers: over a group

    sum x w  =  x_scale * w_scale * sum(x_q w_q)  +  x_scale * minimum * sum(x_q)

int4_wo has the layout of int4 and leaves the activations as they are: its products are in fp32.
"""

from dataclasses import dataclass

import torch

from nimlite.quant.base import GROUP, TILE, PackedWeight, from_tiles, to_tiles
from nimlite.quant.rounded import RoundedMatrix
from nimlite.quant.rows import Int8RowsScheme

_TILES_AT_ONCE = 32
"""Packed together: the temporaries of one step stay in the cache."""


def quantize_activations(x_TC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round each row to int8 in groups of 32: fp32 values [T, C/32, 32] and scales [T, C/32, 1].

    scale = max|x| / 127; values = x * (127 / max|x|), rounded half to even.
    """
    groups = x_TC.float().reshape(len(x_TC), -1, GROUP)
    largest = groups.abs().amax(-1, keepdim=True)
    inverse = torch.where(largest > 0, 127.0 / largest, 0.0)
    return (groups * inverse).round(), largest / 127.0


@dataclass(frozen=True, slots=True)
class Int8Scheme:
    """Symmetric: value = (q - 128) * scale, with scale = max|w| / 127."""

    name: str = "int8"
    columns_multiple_of: int = GROUP

    def pack(self, weight_NC: torch.Tensor) -> PackedWeight:
        num_rows, num_columns = weight_NC.shape
        tiles = _grouped_tiles(weight_NC)
        weight = torch.empty((len(tiles), tiles.shape[2], 8, TILE, 4), dtype=torch.uint8)
        scale = torch.empty((len(tiles), tiles.shape[2], TILE), dtype=torch.float16)
        for first in range(0, len(tiles), _TILES_AT_ONCE):
            chunk = slice(first, first + _TILES_AT_ONCE)
            group = tiles[chunk]
            scales = (group.abs().amax(-1) / 127.0).half()
            q = (group * _inverse(scales)).round_().clamp_(-127, 127).add_(128).to(torch.uint8)
            weight[chunk] = _int8_layout(q)
            scale[chunk] = scales.transpose(1, 2)
        tensors = {"weight": weight, "scale": scale}
        return PackedWeight(self.name, num_rows, num_columns, tensors)

    def pack_rounded(self, weight: RoundedMatrix) -> PackedWeight:
        """The same values, each scale (in fp16) repeated; other grids are rounded again."""
        if weight.kind != "int8" or weight.zeros_NG is not None or not _in_groups(weight):
            return self.pack(weight.dequantized())
        q = _grouped_tiles(weight.values_NC.short() + 128).to(torch.uint8)
        tensors = {"weight": _int8_layout(q), "scale": _repeated(weight.scales_NG, weight)}
        num_rows, num_columns = weight.values_NC.shape
        return PackedWeight(self.name, num_rows, num_columns, tensors)

    def unpack(self, weight: PackedWeight) -> torch.Tensor:
        tensors = weight.tensors
        q = tensors["weight"].permute(0, 3, 1, 2, 4).flatten(3).float() - 128
        scale = tensors["scale"].transpose(1, 2).unsqueeze(-1).float()
        return from_tiles(q * scale, weight.num_rows)

    def linear(self, x_TC: torch.Tensor, weight: PackedWeight) -> torch.Tensor:
        return _rounded_linear(x_TC, self.unpack(weight))


@dataclass(frozen=True, slots=True)
class Int4Scheme:
    """Asymmetric: value = q * scale + minimum, with scale = (max - min) / 15."""

    name: str = "int4"
    columns_multiple_of: int = GROUP
    keeps_activations: bool = False

    def pack(self, weight_NC: torch.Tensor) -> PackedWeight:
        num_rows, num_columns = weight_NC.shape
        tiles = _grouped_tiles(weight_NC)
        weight = torch.empty((len(tiles), tiles.shape[2], 4, TILE, 4), dtype=torch.uint8)
        scale = torch.empty((len(tiles), tiles.shape[2], TILE), dtype=torch.float16)
        minimum = torch.empty_like(scale)
        for first in range(0, len(tiles), _TILES_AT_ONCE):
            chunk = slice(first, first + _TILES_AT_ONCE)
            group = tiles[chunk]
            low, high = group.amin(-1), group.amax(-1)
            scales, minimums = ((high - low) / 15.0).half(), low.half()
            q = (group - minimums.float().unsqueeze(-1)).mul_(_inverse(scales)).round_()
            weight[chunk] = _int4_layout(q.clamp_(0, 15).to(torch.uint8))
            scale[chunk], minimum[chunk] = scales.transpose(1, 2), minimums.transpose(1, 2)
        tensors = {"weight": weight, "scale": scale, "minimum": minimum}
        return PackedWeight(self.name, num_rows, num_columns, tensors)

    def pack_rounded(self, weight: RoundedMatrix) -> PackedWeight:
        """The same values, each scale and minimum (in fp16) repeated. Sorted features have no
        groups of neighbours: those, and other grids, are held in 8 bits."""
        if weight.kind != "int4" or not _in_groups(weight):
            finer = Int8RowsScheme() if self.keeps_activations else Int8Scheme()
            return finer.pack(weight.dequantized())
        minimums_NG = -weight.zeros() * weight.scales_NG
        tensors = {
            "weight": _int4_layout(_grouped_tiles(weight.values_NC)),
            "scale": _repeated(weight.scales_NG, weight),
            "minimum": _repeated(minimums_NG, weight),
        }
        num_rows, num_columns = weight.values_NC.shape
        return PackedWeight(self.name, num_rows, num_columns, tensors)

    def unpack(self, weight: PackedWeight) -> torch.Tensor:
        tensors = weight.tensors
        nibbles = tensors["weight"].permute(0, 3, 1, 2, 4)
        q = torch.stack([nibbles & 15, nibbles >> 4], dim=4).flatten(3).float()
        scale = tensors["scale"].transpose(1, 2).unsqueeze(-1).float()
        minimum = tensors["minimum"].transpose(1, 2).unsqueeze(-1).float()
        return from_tiles(q * scale + minimum, weight.num_rows)

    def linear(self, x_TC: torch.Tensor, weight: PackedWeight) -> torch.Tensor:
        if self.keeps_activations:
            return x_TC.float() @ self.unpack(weight).T
        return _rounded_linear(x_TC, self.unpack(weight))


def _in_groups(weight: RoundedMatrix) -> bool:
    """Whether groups of 32 neighbours share a scale."""
    return weight.order_C is None and weight.group_size % GROUP == 0


def _grouped_tiles(values_NC: torch.Tensor) -> torch.Tensor:
    """[N/16, 16, C/32, 32]."""
    return to_tiles(values_NC).reshape(-1, TILE, values_NC.shape[1] // GROUP, GROUP)


def _repeated(numbers_NG: torch.Tensor, weight: RoundedMatrix) -> torch.Tensor:
    """A number a group of `weight` as one a group of 32: fp16 [N/16, C/32, 16]."""
    repeated = numbers_NG.repeat_interleave(weight.group_size // GROUP, dim=1)
    return to_tiles(repeated.half()).transpose(1, 2).contiguous()


def _int8_layout(q: torch.Tensor) -> torch.Tensor:
    """[N/16, 16, C/32, 32] -> [N/16, C/32, 8, 16, 4]."""
    return q.reshape(*q.shape[:3], 8, 4).permute(0, 2, 3, 1, 4).contiguous()


def _int4_layout(q: torch.Tensor) -> torch.Tensor:
    """[N/16, 16, C/32, 32] -> [N/16, C/32, 4, 16, 4], two a byte."""
    pairs = q.reshape(*q.shape[:3], 4, 2, 4)
    nibbles = pairs[..., 0, :] | (pairs[..., 1, :] << 4)
    return nibbles.permute(0, 2, 3, 1, 4).contiguous()


def _inverse(scales: torch.Tensor) -> torch.Tensor:
    """1 / scale, or 0 where a group is constant, shaped to multiply the group."""
    wide = scales.float().unsqueeze(-1)
    return torch.where(wide > 0, 1.0 / wide, 0.0)


def _rounded_linear(x_TC: torch.Tensor, weight_NC: torch.Tensor) -> torch.Tensor:
    """In fp64, where the order of the sums does not matter."""
    values, scales = quantize_activations(x_TC)
    rounded_TC = (values.double() * scales.double()).flatten(1)
    return (rounded_TC @ weight_NC.double().T).float()
