"""A linear layer's weight as the engine holds it."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

TILE = 16
"""Output features in a tile: one 512-bit register of fp32. Rows are padded with zeros to whole tiles."""
GROUP = 32
"""Input features that share one scale."""


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A weight [N, C] in the layout of its scheme. `tensors` are what lies in the engine file."""

    scheme: str
    """fp32, bf16, int8 or int4: a key of `quant.SCHEMES`."""
    num_rows: int
    num_columns: int
    tensors: Mapping[str, torch.Tensor]
    """fp32, bf16: weight [N/16, C, 16].
    int8: weight uint8 [N/16, C/32, 8, 16, 4] (value + 128), scale fp16 [N/16, C/32, 16].
    int4: weight uint8 [N/16, C/32, 4, 16, 4] (low nibble: columns 8p+0..3, high nibble: 8p+4..7), scale and minimum fp16
    [N/16, C/32, 16]; value = q * scale + minimum."""
