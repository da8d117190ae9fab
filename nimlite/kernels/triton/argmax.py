"""The largest logit of each row, in two launches: parts of rows, then rows."""

import torch
import triton
import triton.language as tl

from nimlite.kernels.triton.device import Device, await_inputs

_BLOCK = 2048


@triton.jit
def best_of(values, indices, none):
    """The largest value and its lowest index (`none`: an index above all)."""
    best = tl.max(values, axis=0)
    return best, tl.min(tl.where(values == best, indices, none), axis=0)


@triton.jit
def best_in_range(row_ptr, first, last, num_columns, BLOCK: tl.constexpr):
    """The largest of columns first … last of a row, and its lowest index."""
    lanes = tl.arange(0, BLOCK)
    values = tl.full((BLOCK,), float("-inf"), tl.float32)
    indices = tl.zeros((BLOCK,), tl.int32) + first
    for start in range(first, last, BLOCK):
        columns = start + lanes
        x = tl.load(row_ptr + columns, mask=columns < last, other=float("-inf")).to(tl.float32)
        indices = tl.where(x > values, columns, indices)
        values = tl.maximum(values, x)
    return best_of(values, indices, num_columns)


@triton.jit
def _argmax_parts(
    logits_ptr,
    values_ptr,
    indices_ptr,
    stride,
    num_columns,
    columns_each,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    await_inputs(OVERLAP)
    row, part = tl.program_id(0), tl.program_id(1)
    first = part * columns_each
    last = tl.minimum(first + columns_each, num_columns)
    row_ptr = logits_ptr + row.to(tl.int64) * stride
    best, index = best_in_range(row_ptr, first, last, num_columns, BLOCK)
    tl.store(values_ptr + row * tl.num_programs(1) + part, best)
    tl.store(indices_ptr + row * tl.num_programs(1) + part, index)


@triton.jit
def _argmax_rows(
    values_ptr, indices_ptr, tokens_ptr, num_parts, PARTS: tl.constexpr, OVERLAP: tl.constexpr
):
    await_inputs(OVERLAP)
    row = tl.program_id(0)
    parts = tl.arange(0, PARTS)
    mask = parts < num_parts
    values = tl.load(values_ptr + row * num_parts + parts, mask=mask, other=float("-inf"))
    indices = tl.load(indices_ptr + row * num_parts + parts, mask=mask, other=0x7FFFFFFF)
    _, index = best_of(values, indices, 0x7FFFFFFF)
    tl.store(tokens_ptr + row, index)


def argmax(logits_RV: torch.Tensor, tokens_R: torch.Tensor, device: Device) -> None:
    """Write the index of each row's largest logit, the lowest of equal ones, to int32 tokens_R."""
    num_rows, num_columns = logits_RV.shape
    parts = min(2 * device.programs(num_rows), triton.cdiv(num_columns, _BLOCK))
    columns_each = triton.cdiv(triton.cdiv(num_columns, parts), _BLOCK) * _BLOCK
    parts = triton.cdiv(num_columns, columns_each)
    where = logits_RV.device
    values = torch.empty((num_rows, parts), dtype=torch.float32, device=where)
    indices = torch.empty((num_rows, parts), dtype=torch.int32, device=where)
    _argmax_parts[(num_rows, parts)](
        logits_RV,
        values,
        indices,
        logits_RV.stride(0),
        num_columns,
        columns_each,
        BLOCK=_BLOCK,
        OVERLAP=device.overlaps_launches,
        **device.launch_options,
    )
    _argmax_rows[(num_rows,)](
        values,
        indices,
        tokens_R,
        parts,
        PARTS=triton.next_power_of_2(parts),
        OVERLAP=device.overlaps_launches,
        num_warps=1,
        **device.launch_options,
    )
