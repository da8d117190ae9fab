"""One token a row from temperature, min-p, top-k and top-p, without a sort and without the host.

One program a row. A token is known by its distance a = (largest logit - logit) / temperature; what
is kept is a <= some threshold, found by bisection on the bits of a (which order as a does). Three
passes read the row: the largest logit, how many tokens lie within some distances, and the copy of
those few that can matter. The bisections then run in registers. Where too many tokens can matter
(a flat distribution with top-p close to 1), they read the row each time.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from nimlite.kernels.triton.argmax import best_in_range
from nimlite.kernels.triton.device import Device, await_inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleConfig:
    """Block shapes."""

    block: int = 2048
    capacity: int = 4096
    """Tokens of a row that bisections hold in registers."""
    num_warps: int = 16


@dataclass(frozen=True, slots=True)
class SamplingInputs:
    """What the choice of each row depends on, besides its logits."""

    temperature_R: torch.Tensor
    """fp32; 0 chooses the largest logit."""
    top_k_R: torch.Tensor
    """int32; 0: all."""
    top_p_R: torch.Tensor
    """fp32; 1: all."""
    min_p_R: torch.Tensor
    """fp32; 0: all."""
    uniform_R: torch.Tensor
    """fp32 in [0, 1)."""


@triton.jit
def _distances(row_ptr, columns, num_columns, maximum, inverse_temperature):
    """a of some columns, infinite past the row's end."""
    x = tl.load(row_ptr + columns, mask=columns < num_columns, other=float("-inf"))
    return (maximum - x.to(tl.float32)) * inverse_temperature


@triton.jit
def _measure_row(
    row_ptr,
    num_columns,
    maximum,
    inverse_temperature,
    threshold,
    COUNT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Number (exact up to 2^24) or weight of the row's tokens with a <= threshold."""
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, num_columns, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        a = _distances(row_ptr, columns, num_columns, maximum, inverse_temperature)
        one = tl.full((BLOCK,), 1.0, tl.float32) if COUNT else tl.exp(-a)
        total += tl.where((a <= threshold) & (columns < num_columns), one, 0.0)
    return tl.sum(total, axis=0)


@triton.jit
def _bisect_row(
    row_ptr,
    num_columns,
    maximum,
    inverse_temperature,
    target,
    threshold,
    COUNT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The smallest threshold, at most the given one, whose tokens measure `target` or more."""
    low, high = 0, threshold.to(tl.int32, bitcast=True)
    while low < high:
        middle = low + (high - low) // 2
        measure = _measure_row(
            row_ptr,
            num_columns,
            maximum,
            inverse_temperature,
            middle.to(tl.float32, bitcast=True),
            COUNT,
            BLOCK,
        )
        enough = measure >= target
        high = tl.where(enough, middle, high)
        low = tl.where(enough, low, middle + 1)
    return high.to(tl.float32, bitcast=True)


@triton.jit
def _bisect(a, measures, target, threshold):
    """`_bisect_row` over tokens in registers."""
    low, high = 0, threshold.to(tl.int32, bitcast=True)
    while low < high:
        middle = low + (high - low) // 2
        kept = a <= middle.to(tl.float32, bitcast=True)
        enough = tl.sum(tl.where(kept, measures, 0.0), axis=0) >= target
        high = tl.where(enough, middle, high)
        low = tl.where(enough, low, middle + 1)
    return high.to(tl.float32, bitcast=True)


@triton.jit
def _invert(weights, lanes, share):
    """The first lane at which the cumulated weight exceeds `share`, or the last one with a weight
    (rounding may leave the cumulated weight short of a share close to the total)."""
    index = tl.sum((tl.cumsum(weights, axis=0) <= share).to(tl.int32), axis=0)
    return tl.minimum(index, tl.max(tl.where(weights > 0, lanes, 0), axis=0))


@triton.jit
def _draw_row(
    row_ptr, num_columns, maximum, inverse_temperature, threshold, uniform, BLOCK: tl.constexpr
):
    """Invert the row's distribution function over a <= threshold, in the vocabulary's order."""
    total = _measure_row(
        row_ptr, num_columns, maximum, inverse_temperature, threshold, False, BLOCK
    )
    lanes = tl.arange(0, BLOCK)
    share, passed = uniform * total, 0.0
    found, before, is_found = 0, 0.0, 0
    for start in range(0, num_columns, BLOCK):
        a = _distances(row_ptr, start + lanes, num_columns, maximum, inverse_temperature)
        weight = tl.sum(tl.where(a <= threshold, tl.exp(-a), 0.0), axis=0)
        here = (is_found == 0) & (weight > 0)
        found = tl.where(here, start, found)
        before = tl.where(here, passed, before)
        passed += weight
        is_found = tl.where(here & (passed > share), 1, is_found)
    a = _distances(row_ptr, found + lanes, num_columns, maximum, inverse_temperature)
    return found + _invert(tl.where(a <= threshold, tl.exp(-a), 0.0), lanes, share - before)


@triton.jit
def _survey(
    row_ptr,
    num_columns,
    maximum,
    inverse_temperature,
    widest,
    CAPACITY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The widest of some distances within which at most CAPACITY tokens lie (-1: none), how many
    they are, and the weight of all tokens within `widest`."""
    # 0.5 … 16 in equal ratios, and all
    tried = tl.arange(0, 8)
    distances = tl.minimum(tl.where(tried < 7, tl.exp2(tried * 0.8333333 - 1.0), widest), widest)
    counts = tl.zeros((8, BLOCK), tl.int32)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, num_columns, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        a = _distances(row_ptr, columns, num_columns, maximum, inverse_temperature)
        total += tl.where((a <= widest) & (columns < num_columns), tl.exp(-a), 0.0)
        within = (a[None, :] <= distances[:, None]) & (columns < num_columns)[None, :]
        counts += within.to(tl.int32)
    counts = tl.sum(counts, axis=1)
    fits = counts <= CAPACITY
    distance = tl.max(tl.where(fits, distances, -1.0), axis=0)
    return distance, tl.max(tl.where(fits, counts, 0), axis=0), tl.sum(total, axis=0)


@triton.jit
def _copy_within(
    row_ptr,
    distances_ptr,
    ids_ptr,
    num_columns,
    maximum,
    inverse_temperature,
    distance,
    BLOCK: tl.constexpr,
):
    """Copy the tokens with a <= distance, in their order: their a and their ids."""
    copied = 0
    for start in range(0, num_columns, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        a = _distances(row_ptr, columns, num_columns, maximum, inverse_temperature)
        chosen = (a <= distance) & (columns < num_columns)
        place = copied + tl.cumsum(chosen.to(tl.int32), axis=0) - 1
        tl.store(distances_ptr + place, a, mask=chosen)
        tl.store(ids_ptr + place, columns, mask=chosen)
        copied += tl.sum(chosen.to(tl.int32), axis=0)


@triton.jit
def _sample(
    logits_ptr,
    tokens_ptr,
    temperature_ptr,
    top_k_ptr,
    top_p_ptr,
    min_p_ptr,
    uniform_ptr,
    distances_ptr,
    ids_ptr,
    stride,
    num_columns,
    BLOCK: tl.constexpr,
    CAPACITY: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    await_inputs(OVERLAP)
    row = tl.program_id(0)
    row_ptr = logits_ptr + row.to(tl.int64) * stride
    maximum, token = best_in_range(row_ptr, 0, num_columns, num_columns, BLOCK)
    temperature = tl.load(temperature_ptr + row)
    if temperature > 0:
        inverse = 1.0 / temperature
        uniform = tl.load(uniform_ptr + row)
        top_k, top_p = tl.load(top_k_ptr + row), tl.load(top_p_ptr + row)
        min_p = tl.load(min_p_ptr + row)
        limits_k = (top_k > 0) & (top_k < num_columns)
        # finite: a token of logit -inf is never kept
        widest = tl.where(min_p > 0, -tl.log(tl.maximum(min_p, 1e-30)), 3.0e38)
        if limits_k | (top_p < 1) | (min_p > 0):
            distance, count, total = _survey(
                row_ptr, num_columns, maximum, inverse, widest, CAPACITY, BLOCK
            )
            holds_all = distance >= widest
            in_registers = holds_all | (limits_k & (count >= top_k))
            lanes = tl.arange(0, CAPACITY)
            if distance >= 0:
                row_distances, row_ids = distances_ptr + row * CAPACITY, ids_ptr + row * CAPACITY
                _copy_within(
                    row_ptr, row_distances, row_ids, num_columns, maximum, inverse, distance, BLOCK
                )
                tl.debug_barrier()
                a = tl.load(row_distances + lanes, mask=lanes < count, other=float("inf"))
                weights = tl.exp(-a)
                has_weight = tl.sum(weights, axis=0) >= top_p * total
                in_registers = in_registers | (has_weight & (limits_k == 0))
                if in_registers:
                    threshold = distance
                    if limits_k & (count > top_k):
                        ones = tl.where(lanes < count, 1.0, 0.0)
                        threshold = _bisect(a, ones, top_k.to(tl.float32), threshold)
                    if top_p < 1:
                        if limits_k:
                            total = tl.sum(tl.where(a <= threshold, weights, 0.0), axis=0)
                        threshold = _bisect(a, weights, top_p * total, threshold)
                    weights = tl.where(a <= threshold, weights, 0.0)
                    share = uniform * tl.sum(weights, axis=0)
                    token = tl.load(row_ids + _invert(weights, lanes, share))
            if in_registers == 0:
                threshold = widest
                if limits_k:
                    threshold = _bisect_row(
                        row_ptr,
                        num_columns,
                        maximum,
                        inverse,
                        top_k.to(tl.float32),
                        threshold,
                        True,
                        BLOCK,
                    )
                if top_p < 1:
                    kept = _measure_row(
                        row_ptr, num_columns, maximum, inverse, threshold, False, BLOCK
                    )
                    threshold = _bisect_row(
                        row_ptr,
                        num_columns,
                        maximum,
                        inverse,
                        top_p * kept,
                        threshold,
                        False,
                        BLOCK,
                    )
                token = _draw_row(row_ptr, num_columns, maximum, inverse, threshold, uniform, BLOCK)
        else:
            token = _draw_row(row_ptr, num_columns, maximum, inverse, widest, uniform, BLOCK)
    tl.store(tokens_ptr + row, token)


def sample(
    logits_RV: torch.Tensor,
    inputs: SamplingInputs,
    tokens_R: torch.Tensor,
    device: Device,
    config: SampleConfig = SampleConfig(),
) -> None:
    """Write one token a row to int32 tokens_R: temperature, min-p, top-k, top-p (a share of what
    top-k left), then the inverse, at `uniform`, of the distribution function over what is left in
    the vocabulary's order. Of equal logits at a limit all are kept."""
    num_rows, num_columns = logits_RV.shape
    shape = (num_rows, config.capacity)
    where = logits_RV.device
    _sample[(num_rows,)](
        logits_RV,
        tokens_R,
        inputs.temperature_R,
        inputs.top_k_R,
        inputs.top_p_R,
        inputs.min_p_R,
        inputs.uniform_R,
        torch.empty(shape, dtype=torch.float32, device=where),
        torch.empty(shape, dtype=torch.int32, device=where),
        logits_RV.stride(0),
        num_columns,
        BLOCK=config.block,
        CAPACITY=config.capacity,
        OVERLAP=device.overlaps_launches,
        num_warps=config.num_warps,
        **device.launch_options,
    )
