"""A mixture of experts: tokens are sorted by expert, and one grouped product serves all of them.

Four kernels besides the activation: which experts each token goes to; the places of each expert,
which lie one expert after the other; the products, whose programs each read one tile of one
expert's weight (those of experts without tokens end at once, so that only touched weights are
read); and the sum of what comes back. All shapes follow from the number of tokens: the launches can
be recorded.

Weights of 8 and 4 bits are widened as they are read, and activations stay in 16 bits whatever the
precision: what they cost is their bytes.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from nimlite.kernels.base import Experts
from nimlite.kernels.triton.activation import gated_activation
from nimlite.kernels.triton.device import Device, await_inputs
from nimlite.kernels.triton.experts_words import experts_words
from nimlite.kernels.triton.scaled_rows import row_block
from nimlite.kernels.triton.weight_only import BITS, WORDS, columns_of_block, group_size
from nimlite.quant.base import PackedWeight

_CHUNK = 1024
"""Places that a program of the sort looks at a time."""


@dataclass(frozen=True, slots=True)
class ExpertsConfig:
    """Block shapes of the grouped products."""

    rows: int
    block_n: int
    block_c: int
    num_warps: int
    num_stages: int

    @classmethod
    def default(cls, num_rows: int, experts: Experts) -> "ExpertsConfig":
        """By the tokens that an expert has on average: most of those with more have them in one
        tile, so that their weights are read once."""
        average = num_rows * experts.per_token / experts.num_experts
        if average <= 8:
            return cls(rows=16, block_n=64, block_c=128, num_warps=4, num_stages=4)
        if average <= 16:
            return cls(rows=32, block_n=64, block_c=128, num_warps=4, num_stages=3)
        return cls(rows=64, block_n=128, block_c=64, num_warps=4, num_stages=3)


@triton.jit
def _route(
    router_ptr,
    weights_ptr,
    chosen_ptr,
    num_experts,
    PER_TOKEN: tl.constexpr,
    NORMALIZE: tl.constexpr,
    BLOCK_E: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    await_inputs(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    e = tl.arange(0, BLOCK_E)
    exists = e < num_experts
    logits = tl.load(router_ptr + row * num_experts + e, mask=exists, other=-float("inf"))
    p = tl.exp(logits.to(tl.float32) - tl.max(logits.to(tl.float32), axis=0))
    p = p / tl.sum(p, axis=0)
    left = tl.where(exists, p, -1.0)
    taken = 0.0
    for k in tl.static_range(PER_TOKEN):
        best = tl.argmax(left, axis=0)
        taken += tl.max(left, axis=0)
        tl.store(chosen_ptr + row * PER_TOKEN + k, best)
        left = tl.where(e == best, -1.0, left)
    # every chosen one's probability, at the place where it was chosen
    divisor = taken if NORMALIZE else 1.0
    again = tl.where(exists, p, -1.0)
    for k in tl.static_range(PER_TOKEN):
        best = tl.argmax(again, axis=0)
        tl.store(weights_ptr + row * PER_TOKEN + k, tl.max(again, axis=0) / divisor)
        again = tl.where(e == best, -1.0, again)


@triton.jit
def _sort(
    chosen_ptr, order_ptr, starts_ptr, num_places, CHUNK: tl.constexpr, OVERLAP: tl.constexpr
):
    """One program an expert: where its places begin, and which (token, choice) each of them is."""
    await_inputs(OVERLAP)
    expert = tl.program_id(0)
    start = 0
    for first in range(0, num_places, CHUNK):
        i = first + tl.arange(0, CHUNK)
        chosen = tl.load(chosen_ptr + i, mask=i < num_places, other=1 << 30)
        start += tl.sum((chosen < expert).to(tl.int32), axis=0)
    tl.store(starts_ptr + expert, start)
    if expert == tl.num_programs(0) - 1:
        tl.store(starts_ptr + expert + 1, num_places)
    for first in range(0, num_places, CHUNK):
        i = first + tl.arange(0, CHUNK)
        chosen = tl.load(chosen_ptr + i, mask=i < num_places, other=1 << 30)
        mine = (chosen == expert).to(tl.int32)
        place = start + tl.cumsum(mine, axis=0) - 1
        tl.store(order_ptr + place, i, mask=mine != 0)
        start += tl.sum(mine, axis=0)


@triton.jit
def _experts(
    x_ptr,
    w_ptr,
    scale_ptr,
    order_ptr,
    starts_ptr,
    weights_ptr,
    y_ptr,
    num_outputs,
    num_columns,
    PER_TOKEN: tl.constexpr,
    DOWN: tl.constexpr,
    SCALED: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """Grid: tiles of an expert's places, of outputs, experts: those that read the same weights run
    side by side. The rows of x are tokens and those of y places; with DOWN those of x are places,
    and those of y (token, choice), weighed. SCALED: a scale for each row of the weight."""
    await_inputs(OVERLAP)
    expert = tl.program_id(2)
    end = tl.load(starts_ptr + expert + 1)
    first = tl.load(starts_ptr + expert) + tl.program_id(0) * ROWS
    if first < end:
        place = first + tl.arange(0, ROWS)
        exists = place < end
        index = tl.load(order_ptr + place, mask=exists, other=0)
        row = (place if DOWN else index // PER_TOKEN).to(tl.int64)
        n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
        c = tl.arange(0, BLOCK_C)
        w_rows = w_ptr + (expert.to(tl.int64) * num_outputs + n)[:, None] * num_columns
        x_rows = x_ptr + row[None, :] * num_columns
        acc = tl.zeros((BLOCK_N, ROWS), tl.float32)
        for begin in range(0, num_columns, BLOCK_C):
            columns = begin + c
            inside = columns < num_columns
            w_mask = (n < num_outputs)[:, None] & inside[None, :]
            w = tl.load(w_rows + columns[None, :], mask=w_mask, other=0.0)
            x_mask = inside[:, None] & exists[None, :]
            x = tl.load(x_rows + columns[:, None], mask=x_mask, other=0.0)
            acc = tl.dot(w.to(x.dtype), x, acc)
        if SCALED:
            scales = scale_ptr + expert * num_outputs + n
            acc *= tl.load(scales, mask=n < num_outputs, other=0.0)[:, None]
        target = (index if DOWN else place).to(tl.int64)
        if DOWN:
            acc *= tl.load(weights_ptr + index, mask=exists, other=0.0)[None, :]
        y = y_ptr + target[None, :] * num_outputs + n[:, None]
        y_mask = (n < num_outputs)[:, None] & exists[None, :]
        tl.store(y, acc.to(y_ptr.dtype.element_ty), mask=y_mask)


@triton.jit
def _combine(
    z_ptr,
    y_ptr,
    num_columns,
    PER_TOKEN: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    await_inputs(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < num_columns
    y = tl.zeros((BLOCK,), tl.float32)
    for k in tl.static_range(PER_TOKEN):
        z = z_ptr + (row * PER_TOKEN + k) * num_columns + columns
        y += tl.load(z, mask=mask, other=0.0).to(tl.float32)
    tl.store(y_ptr + row * num_columns + columns, y.to(y_ptr.dtype.element_ty), mask=mask)


def moe(
    x_TD: torch.Tensor,
    router_TE: torch.Tensor,
    experts: Experts,
    device: Device,
    config: ExpertsConfig | None = None,
) -> torch.Tensor:
    """As `Kernels.moe`, with weights in rows of 16 bits (or fp32) or of 8 with a scale each, or in
    words of 4 or 8 bits: y_TD in the dtype of x."""
    num_rows, hidden = x_TD.shape
    config = config or ExpertsConfig.default(num_rows, experts)
    num_experts, per_token = experts.num_experts, experts.per_token
    common = {"PER_TOKEN": per_token, "OVERLAP": device.overlaps_launches}
    options = device.launch_options
    places = num_rows * per_token
    weights_P = x_TD.new_empty(places, dtype=torch.float32)
    indices = x_TD.new_empty(2 * places + num_experts + 1, dtype=torch.int32)
    chosen_P, order_P, starts_E1 = indices.split([places, places, num_experts + 1])
    _route[(num_rows,)](
        router_TE,
        weights_P,
        chosen_P,
        num_experts,
        **common,
        NORMALIZE=experts.normalize,
        BLOCK_E=triton.next_power_of_2(num_experts),
        num_warps=1,
        **options,
    )
    overlap = {"OVERLAP": device.overlaps_launches}
    _sort[(num_experts,)](chosen_P, order_P, starts_E1, places, CHUNK=_CHUNK, **overlap, **options)

    def multiply(x: torch.Tensor, weight: PackedWeight, is_down: bool) -> torch.Tensor:
        num_outputs = weight.num_rows // num_experts
        y = x.new_empty((places, num_outputs))
        tiles = triton.cdiv(num_outputs, config.block_n)
        grid = (triton.cdiv(num_rows, config.rows), tiles, num_experts)
        shared = common | {"DOWN": is_down, "ROWS": config.rows, "BLOCK_N": config.block_n}
        shared |= {"num_warps": config.num_warps, "num_stages": config.num_stages, **options}
        sorted_by = (order_P, starts_E1, weights_P)
        if weight.scheme in BITS:
            words_NW, scale_GN = weight.tensors["weight"].view(torch.int16), weight.tensors["scale"]
            assert "order" not in weight.tensors, "experts' columns are not sorted"
            experts_words[grid](
                x,
                words_NW,
                scale_GN,
                weight.tensors.get("zero"),
                *sorted_by,
                y,
                num_outputs,
                weight.num_columns,
                words_NW.shape[1] // WORDS,
                len(scale_GN),
                weight.num_rows,
                **shared,
                BITS=BITS[weight.scheme],
                GROUP_SIZE=group_size(weight),
                EVEN=weight.num_columns % columns_of_block(weight.scheme) == 0,
                ASSEMBLY=not device.is_interpreted and x.dtype == torch.bfloat16,
            )
            return y
        _experts[grid](
            x,
            weight.tensors["weight"],
            weight.tensors.get("scale"),
            *sorted_by,
            y,
            num_outputs,
            weight.num_columns,
            **shared,
            SCALED="scale" in weight.tensors,
            BLOCK_C=config.block_c,
        )
        return y

    gate_up_PU = multiply(x_TD.contiguous(), experts.up, False)
    inner_PI = gated_activation(gate_up_PU, experts.activation, device)
    assert isinstance(inner_PI, torch.Tensor)
    z_PD = multiply(inner_PI, experts.down, True)
    y_TD = torch.empty_like(x_TD)
    _combine[(num_rows,)](z_PD, y_TD, hidden, **common, **row_block(hidden), **options)
    return y_TD
