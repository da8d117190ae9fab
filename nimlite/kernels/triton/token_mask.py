"""Which tokens a grammar lets through: the others' logits become -inf."""

import torch
import triton
import triton.language as tl

from nimlite.kernels.triton.device import Device, await_inputs

_BLOCK = 4096


@triton.jit
def _forbid(
    logits_ptr,
    rows_ptr,
    bits_ptr,
    stride,
    num_columns,
    num_words,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    await_inputs(OVERLAP)
    masked = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row_ptr = logits_ptr + tl.load(rows_ptr + masked).to(tl.int64) * stride
    inside = columns < num_columns
    words = tl.load(bits_ptr + masked * num_words + columns // 32, mask=inside, other=0)
    is_forbidden = ((words >> (columns % 32)) & 1) == 0
    infinities = tl.full((BLOCK,), float("-inf"), logits_ptr.dtype.element_ty)
    tl.store(row_ptr + columns, infinities, mask=inside & is_forbidden)


def forbid(
    logits_RV: torch.Tensor, rows_G: torch.Tensor, bits_GW: torch.Tensor, device: Device
) -> None:
    """Set the logits of tokens without a bit to -inf, in place.

    rows_G: int32, the rows that are masked. bits_GW: int32, the bits of each: token t has bit
    t % 32 of word t // 32; as many words as the row's columns need, or more.
    """
    num_columns, num_words = logits_RV.shape[1], bits_GW.shape[1]
    assert num_words * 32 >= num_columns, f"{num_words} words for {num_columns} tokens"
    _forbid[(len(rows_G), triton.cdiv(num_columns, _BLOCK))](
        logits_RV,
        rows_G,
        bits_GW,
        logits_RV.stride(0),
        num_columns,
        num_words,
        BLOCK=_BLOCK,
        OVERLAP=device.overlaps_launches,
        num_warps=8,
        **device.launch_options,
    )
