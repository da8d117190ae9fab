"""Weight formats of the Triton kernels: plain rows [N, C], as libraries want them too, and words of
4- and 8-bit fields."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch

from nimlite.kernels.triton import reference
from nimlite.kernels.triton.scaled_rows import FP8
from nimlite.kernels.triton.weight_only import WORDS
from nimlite.quant.base import PackedWeight, Scheme
from nimlite.quant.rounded import RoundedMatrix
from nimlite.quant.rtn import group_size_for, nearest_int4, nearest_int8

_LARGEST_ZERO = 127
"""That the kernels can subtract: 128 + zero has eight bits."""
_PART = 1 << 28
"""Elements that are rounded at a time."""


@dataclass(frozen=True, slots=True)
class RowsScheme:
    """bf16_rows, fp16_rows: weight [N, C]."""

    name: str
    dtype: torch.dtype
    columns_multiple_of: int = 8

    def pack(self, weight_NC: torch.Tensor) -> PackedWeight:
        """Round to the dtype."""
        num_rows, num_columns = weight_NC.shape
        tensors = {"weight": weight_NC.to(self.dtype).contiguous()}
        return PackedWeight(self.name, num_rows, num_columns, tensors)

    def pack_rounded(self, weight: RoundedMatrix) -> PackedWeight:
        """What it stands for."""
        return self.pack(weight.dequantized())

    def unpack(self, weight: PackedWeight) -> torch.Tensor:
        return weight.tensors["weight"].float()

    def linear(self, x_TC: torch.Tensor, weight: PackedWeight) -> torch.Tensor:
        return x_TC.to(self.dtype).float() @ self.unpack(weight).T


@dataclass(frozen=True, slots=True)
class ScaledRowsScheme:
    """fp8_rows, int8_rows: weight [N, C] in e4m3 or int8, scale fp32 [N] = absmax / 448 or 127; x
    is rounded to the same (W8A8)."""

    name: str
    dtype: torch.dtype
    kind: str
    """Of the rounded matrices that it can hold."""
    columns_multiple_of: int = 16

    def pack(self, weight_NC: torch.Tensor) -> PackedWeight:
        """Round each row with its own scale."""
        return _in_parts(self._pack, weight_NC)

    def _pack(self, weight_NC: torch.Tensor) -> PackedWeight:
        rows = reference.quantize_rows(weight_NC, self.dtype)
        tensors = {"weight": rows.values_TC, "scale": rows.scale_T1.flatten()}
        return PackedWeight(self.name, len(weight_NC), weight_NC.shape[1], tensors)

    def pack_rounded(self, weight: RoundedMatrix) -> PackedWeight:
        """The same values where a row has one scale; else what they stand for, rounded again."""
        is_held = weight.kind == self.kind and weight.zeros_NG is None
        if not is_held or weight.scales_NG.shape[1] > 1:
            return self.pack(weight.dequantized())
        tensors = {
            "weight": weight.values_NC.contiguous(),
            "scale": weight.scales_NG.flatten().contiguous(),
        }
        return PackedWeight(self.name, *_shape(weight), tensors)

    def unpack(self, weight: PackedWeight) -> torch.Tensor:
        return weight.tensors["weight"].float() * weight.tensors["scale"].unsqueeze(1)

    def linear(self, x_TC: torch.Tensor, weight: PackedWeight) -> torch.Tensor:
        x_TC = reference.dequantize(reference.quantize_rows(x_TC, self.dtype))
        return x_TC @ self.unpack(weight).T


@dataclass(frozen=True, slots=True)
class Int8WordsScheme:
    """w8a16: weight uint8 [N, bytes] (words of `weight_only`), scale [G, N]: fp32 of whole rows,
    fp16 of groups of columns. x stays in 16 bits."""

    name: str = "w8a16"
    columns_multiple_of: int = 8

    def pack(self, weight_NC: torch.Tensor) -> PackedWeight:
        """Round each row to nearest with its own scale."""
        return _in_parts(lambda part_NC: self.pack_rounded(nearest_int8(part_NC)), weight_NC)

    def pack_rounded(self, weight: RoundedMatrix) -> PackedWeight:
        """The same values; sorted columns, zeros and groups that no field holds are rounded again,
        by rows."""
        has_groups = weight.scales_NG.shape[1] > 1
        is_held = weight.kind == "int8" and weight.zeros_NG is None and weight.order_C is None
        if not is_held or not _fields_hold(weight):
            return self.pack(weight.dequantized())
        scales_NG = weight.scales_NG.half() if has_groups else weight.scales_NG.float()
        tensors = {
            "weight": to_words(weight.values_NC.view(torch.uint8), bits=8),
            "scale": scales_NG.T.contiguous(),
        }
        return PackedWeight(self.name, *_shape(weight), tensors)

    def unpack(self, weight: PackedWeight) -> torch.Tensor:
        values_NC = from_words(weight.tensors["weight"], 8, weight.num_columns).view(torch.int8)
        scale_NG = weight.tensors["scale"].T.float()
        groups = values_NC.float().reshape(*scale_NG.shape, -1)
        return (groups * scale_NG.unsqueeze(-1)).flatten(1)

    def linear(self, x_TC: torch.Tensor, weight: PackedWeight) -> torch.Tensor:
        return x_TC.float() @ self.unpack(weight).T


@dataclass(frozen=True, slots=True)
class Int4WordsScheme:
    """w4a16: weight uint8 [N, bytes] (words of `weight_only`), scale fp16 and zero uint8 [G, N] of
    groups of 32 or more columns; order int32 [C] where the columns were sorted: column j belongs to
    x[order[j]]. x stays in 16 bits."""

    name: str = "w4a16"
    columns_multiple_of: int = WORDS

    def pack(self, weight_NC: torch.Tensor) -> PackedWeight:
        """Round to nearest, in groups as large as may be."""
        size = group_size_for(weight_NC.shape[1])
        return _in_parts(
            lambda part_NC: self.pack_rounded(nearest_int4(part_NC, group_size=size)), weight_NC
        )

    def pack_rounded(self, weight: RoundedMatrix) -> PackedWeight:
        """The same values (each scale in fp16). Smaller groups and zeros that are not whole are
        held in 8 bits."""
        zeros_NG = weight.zeros()
        are_whole = bool((zeros_NG == zeros_NG.round().clamp(0, _LARGEST_ZERO)).all())
        if weight.kind != "int4" or not _fields_hold(weight) or not are_whole:
            return W8A16.pack(weight.dequantized())
        tensors = {
            "weight": to_words(weight.values_NC, bits=4),
            "scale": weight.scales_NG.T.half().contiguous(),
            "zero": zeros_NG.T.to(torch.uint8).contiguous(),
        }
        if weight.order_C is not None:
            tensors["order"] = weight.order_C.int()
        return PackedWeight(self.name, *_shape(weight), tensors)

    def unpack(self, weight: PackedWeight) -> torch.Tensor:
        values_NC = from_words(weight.tensors["weight"], 4, weight.num_columns)
        scale_NG, zero_NG = (weight.tensors[n].T.float().unsqueeze(-1) for n in ("scale", "zero"))
        groups = values_NC.float().reshape(*scale_NG.shape[:2], -1)
        weight_NC = ((groups - zero_NG) * scale_NG).flatten(1)
        order_C = weight.tensors.get("order")
        if order_C is None:
            return weight_NC
        return torch.empty_like(weight_NC).index_copy_(1, order_C.long(), weight_NC)

    def linear(self, x_TC: torch.Tensor, weight: PackedWeight) -> torch.Tensor:
        return x_TC.float() @ self.unpack(weight).T


def _in_parts(
    pack: Callable[[torch.Tensor], PackedWeight], weight_NC: torch.Tensor
) -> PackedWeight:
    """`pack` of a few rows at a time: what rounding keeps in fp32 meanwhile is several times a
    weight, and all experts of a layer are one."""
    num_rows, num_columns = weight_NC.shape
    parts = [pack(part_NC) for part_NC in weight_NC.split(max(1, _PART // num_columns))]
    if len(parts) == 1:
        return parts[0]

    def joined(name: str) -> torch.Tensor:
        tensors = [part.tensors[name] for part in parts]
        by_groups = name != "weight" and tensors[0].ndim == 2
        return torch.cat(tensors, dim=1 if by_groups else 0)

    tensors = {name: joined(name) for name in parts[0].tensors}
    return PackedWeight(parts[0].scheme, num_rows, num_columns, tensors)


def _shape(weight: RoundedMatrix) -> tuple[int, int]:
    return weight.values_NC.shape[0], weight.values_NC.shape[1]


def _fields_hold(weight: RoundedMatrix) -> bool:
    """Whether every field of a block lies in one group, as long as the kernels know."""
    size, is_one = weight.group_size, weight.scales_NG.shape[1] == 1
    return is_one or (size >= WORDS and size & (size - 1) == 0)


def to_words(values_NC: torch.Tensor, *, bits: int) -> torch.Tensor:
    """Fields (uint8, one a byte) as bytes of words, uint8 [N, 64 * blocks]; missing columns are 0.

    Word j of a block of 32 has columns j, 32 + j, … in its fields, the first in its lowest bits.
    """
    fields = 16 // bits
    padding = -values_NC.shape[1] % (fields * WORDS)
    padded = torch.nn.functional.pad(values_NC, (0, padding))
    blocks = padded.reshape(len(padded), -1, fields, WORDS)
    if bits == 4:
        blocks = blocks[:, :, 0::2] | (blocks[:, :, 1::2] << 4)
    return blocks.transpose(2, 3).flatten(1).contiguous()


def from_words(words: torch.Tensor, bits: int, num_columns: int) -> torch.Tensor:
    """The inverse of `to_words`: uint8 [N, C]."""
    blocks = words.reshape(len(words), -1, WORDS, 2).transpose(2, 3)
    if bits == 4:
        blocks = torch.stack([blocks & 15, blocks >> 4], dim=3).flatten(2, 3)
    return blocks.flatten(1)[:, :num_columns]


BF16_ROWS = RowsScheme("bf16_rows", torch.bfloat16)
FP16_ROWS = RowsScheme("fp16_rows", torch.float16)
FP8_ROWS = ScaledRowsScheme("fp8_rows", FP8, "fp8")
INT8_ROWS = ScaledRowsScheme("int8_rows", torch.int8, "int8")
W8A16 = Int8WordsScheme()
W4A16 = Int4WordsScheme()
SCHEMES: Mapping[str, Scheme] = MappingProxyType(
    {scheme.name: scheme for scheme in (BF16_ROWS, FP16_ROWS, FP8_ROWS, INT8_ROWS, W8A16, W4A16)}
)
