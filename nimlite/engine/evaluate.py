"""The logits of a whole text, outside of serving: for the self-test and for tests."""

from collections.abc import Sequence

import torch

from nimlite.kernels.base import Batch, Kernels, KVLayout
from nimlite.layers.decoder import Decoder

_TABLE_WIDTH = 16
"""Tables are widened to a multiple of it, as those of most engines are: for a stride with another
divisor a GPU's kernels would be compiled anew."""


@torch.inference_mode()
def prompt_logits(
    model: Decoder, kernels: Kernels, token_ids: Sequence[int], *, num_decoded: int = 0
) -> torch.Tensor:
    """fp32 logits_TV of every position of one text, over a pool of its own.

    They are computed in one step, but for the last `num_decoded` tokens (or all but the first),
    which take a step each, as generated ones do.
    """
    layout = model.layout
    num_tokens = len(token_ids)
    num_blocks = -(-num_tokens // layout.block_size)
    own = KVLayout(
        num_blocks, layout.block_size, layout.num_kv_heads, layout.head_dim, layout.dtype
    )
    kv = kernels.allocate_kv(model.spec.num_layers, own)
    num_prefilled = max(1, num_tokens - num_decoded)
    steps = [(0, num_prefilled), *((i, i + 1) for i in range(num_prefilled, num_tokens))]
    # a recorded or reused buffer may hold a step's logits only until the next one
    logits = [
        model(_batch(token_ids, step, num_blocks, kv.device), kv, kernels).float().clone()
        for step in steps
    ]
    return torch.cat(logits)


def _batch(
    token_ids: Sequence[int], step: tuple[int, int], num_blocks: int, device: torch.device
) -> Batch:
    """The tokens from step[0] to step[1] of the only sequence, which has the first blocks."""
    start, end = step

    def ints(values: Sequence[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    positions_T = ints(range(start, end))
    return Batch(
        token_ids_T=ints(token_ids[start:end]),
        positions_T=positions_T,
        slots_T=positions_T.clone(),
        query_starts_S1=ints([0, end - start]),
        context_lens_S=ints([end]),
        block_tables_SB=ints([*range(num_blocks), *[0] * (-num_blocks % _TABLE_WIDTH)])[None],
        logit_rows_R=ints(range(end - start)),
    )
