"""Weight formats of the Triton kernels: plain rows [N, C], as cuBLAS wants them too."""

from dataclasses import dataclass

import torch

from nimlite.kernels.triton import reference
from nimlite.kernels.triton.fp8 import FP8, FP8_MAX
from nimlite.quant.base import PackedWeight
from nimlite.quant.rounded import RoundedMatrix


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
class Fp8RowsScheme:
    """fp8_rows: weight e4m3 [N, C], scale fp32 [N] = absmax / 448; x is rounded to fp8 too."""

    name: str = "fp8_rows"
    columns_multiple_of: int = 16

    def pack(self, weight_NC: torch.Tensor) -> PackedWeight:
        """Round each row with its own scale."""
        weight_NC = weight_NC.float()
        scale_N = weight_NC.abs().amax(dim=1).clamp(min=1e-12) / FP8_MAX
        rounded = (weight_NC / scale_N.unsqueeze(1)).to(FP8)
        tensors = {"weight": rounded, "scale": scale_N}
        return PackedWeight(self.name, len(rounded), rounded.shape[1], tensors)

    def pack_rounded(self, weight: RoundedMatrix) -> PackedWeight:
        """The same values where a row has one scale; else what they stand for, rounded again."""
        if weight.kind != "fp8" or weight.scales_NG.shape[1] > 1:
            return self.pack(weight.dequantized())
        num_rows, num_columns = weight.values_NC.shape
        tensors = {
            "weight": weight.values_NC.contiguous(),
            "scale": weight.scales_NG.flatten().contiguous(),
        }
        return PackedWeight(self.name, num_rows, num_columns, tensors)

    def unpack(self, weight: PackedWeight) -> torch.Tensor:
        return weight.tensors["weight"].float() * weight.tensors["scale"].unsqueeze(1)

    def linear(self, x_TC: torch.Tensor, weight: PackedWeight) -> torch.Tensor:
        x_TC = reference.dequantize(reference.quantize_rows(x_TC))
        return x_TC @ self.unpack(weight).T


BF16_ROWS = RowsScheme("bf16_rows", torch.bfloat16)
FP16_ROWS = RowsScheme("fp16_rows", torch.float16)
FP8_ROWS = Fp8RowsScheme()
SCHEMES = {scheme.name: scheme for scheme in (BF16_ROWS, FP16_ROWS, FP8_ROWS)}
