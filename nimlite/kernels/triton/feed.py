"""Tokens that the step before sampled become this step's inputs, without the host."""

import torch
import triton
import triton.language as tl

from nimlite.kernels.triton.device import Device, await_inputs


@triton.jit(do_not_specialize=["num_tokens"])
def _feed(
    sampled_ptr, sources_ptr, ids_ptr, num_tokens, BLOCK: tl.constexpr, OVERLAP: tl.constexpr
):
    await_inputs(OVERLAP)
    t = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    source = tl.load(sources_ptr + t, mask=t < num_tokens, other=-1)
    token = tl.load(sampled_ptr + source, mask=source >= 0, other=0)
    tl.store(ids_ptr + t, token, mask=source >= 0)


def feed(
    sampled_R: torch.Tensor, sources_T: torch.Tensor, token_ids_T: torch.Tensor, device: Device
) -> None:
    """token_ids[t] = sampled[sources[t]] where sources[t] >= 0; all int32."""
    block = 256
    _feed[(triton.cdiv(len(sources_T), block),)](
        sampled_R,
        sources_T,
        token_ids_T,
        len(sources_T),
        BLOCK=block,
        OVERLAP=device.overlaps_launches,
        **device.launch_options,
    )
