"""Penalties and biases on logits, before sampling.

What a sequence has seen lies on the device, one row of the vocabulary a sequence: the number of
times that it generated each token, and whether its prompt holds it.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from nimlite.kernels.triton.device import Device, await_inputs

_BLOCK = 4096
IN_PROMPT = 1 << 14
"""Added to a token's count where the prompt holds it; counts stop one below."""


@dataclass(frozen=True, slots=True)
class Adjustments:
    """What changes each row's logits."""

    seen_PV: torch.Tensor
    """int16, one row a sequence with penalties: count + IN_PROMPT."""
    seen_rows_R: torch.Tensor
    """int32, the row of `seen_PV`; -1 for rows without penalties."""
    penalties_R3: torch.Tensor
    """fp32: repetition (1: none), presence and frequency (0: none)."""
    bias_ids_RB: torch.Tensor
    """int32, distinct in a row; -1 for none."""
    bias_values_RB: torch.Tensor
    """fp32; -inf forbids a token."""


@triton.jit
def _adjust(
    logits_ptr,
    seen_ptr,
    seen_rows_ptr,
    penalties_ptr,
    bias_ids_ptr,
    bias_values_ptr,
    stride,
    num_columns,
    num_biases,
    BIASES: tl.constexpr,
    BLOCK: tl.constexpr,
    IN_PROMPT: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    await_inputs(OVERLAP)
    row = tl.program_id(0)
    start = tl.program_id(1) * BLOCK
    row_ptr = logits_ptr + row.to(tl.int64) * stride
    dtype = logits_ptr.dtype.element_ty
    seen_row = tl.load(seen_rows_ptr + row)
    if seen_row >= 0:
        columns = start + tl.arange(0, BLOCK)
        mask = columns < num_columns
        seen_columns = seen_ptr + seen_row.to(tl.int64) * num_columns + columns
        seen = tl.load(seen_columns, mask=mask, other=0).to(tl.int32)
        x = tl.load(row_ptr + columns, mask=mask, other=0.0).to(tl.float32)
        repetition = tl.load(penalties_ptr + row * 3)
        presence = tl.load(penalties_ptr + row * 3 + 1)
        frequency = tl.load(penalties_ptr + row * 3 + 2)
        # Keskar et al., 2019, arXiv:1909.05858
        repeated = tl.where(x > 0, x / repetition, x * repetition)
        x = tl.where(seen > 0, repeated, x)
        count = seen % IN_PROMPT
        x -= tl.where(count > 0, presence + frequency * count.to(tl.float32), 0.0)
        tl.store(row_ptr + columns, x.to(dtype), mask=mask)
        tl.debug_barrier()
    b = tl.arange(0, BIASES)
    ids = tl.load(bias_ids_ptr + row * num_biases + b, mask=b < num_biases, other=-1)
    mine = (ids >= start) & (ids < start + BLOCK)
    bias = tl.load(bias_values_ptr + row * num_biases + b, mask=mine, other=0.0)
    x = tl.load(row_ptr + ids, mask=mine, other=0.0).to(tl.float32) + bias
    tl.store(row_ptr + ids, x.to(dtype), mask=mine)


def adjust(logits_RV: torch.Tensor, adjustments: Adjustments, device: Device) -> None:
    """Change the logits in place: repetition penalty, presence and frequency, then bias."""
    num_rows, num_columns = logits_RV.shape
    num_biases = adjustments.bias_ids_RB.shape[1]
    _adjust[(num_rows, triton.cdiv(num_columns, _BLOCK))](
        logits_RV,
        adjustments.seen_PV,
        adjustments.seen_rows_R,
        adjustments.penalties_R3,
        adjustments.bias_ids_RB,
        adjustments.bias_values_RB,
        logits_RV.stride(0),
        num_columns,
        num_biases,
        BIASES=triton.next_power_of_2(max(num_biases, 1)),
        BLOCK=_BLOCK,
        IN_PROMPT=IN_PROMPT,
        OVERLAP=device.overlaps_launches,
        num_warps=8,
        **device.launch_options,
    )


@triton.jit
def _count(
    tokens_ptr,
    seen_ptr,
    seen_rows_ptr,
    num_rows,
    num_columns,
    BLOCK: tl.constexpr,
    IN_PROMPT: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    await_inputs(OVERLAP)
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    seen_rows = tl.load(seen_rows_ptr + rows, mask=rows < num_rows, other=-1)
    mask = seen_rows >= 0
    tokens = tl.load(tokens_ptr + rows, mask=mask, other=0)
    pointers = seen_ptr + seen_rows.to(tl.int64) * num_columns + tokens
    seen = tl.load(pointers, mask=mask, other=0).to(tl.int32)
    more = tl.where(seen % IN_PROMPT < IN_PROMPT - 1, seen + 1, seen)
    tl.store(pointers, more.to(tl.int16), mask=mask)


def count(
    tokens_R: torch.Tensor, seen_PV: torch.Tensor, seen_rows_R: torch.Tensor, device: Device
) -> None:
    """Count one generated token a row; rows of `seen_PV` are distinct, -1 stands for none."""
    block = 256
    _count[(triton.cdiv(len(tokens_R), block),)](
        tokens_R,
        seen_PV,
        seen_rows_R,
        len(tokens_R),
        seen_PV.shape[1],
        BLOCK=block,
        IN_PROMPT=IN_PROMPT,
        OVERLAP=device.overlaps_launches,
        **device.launch_options,
    )
