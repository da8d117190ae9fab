"""The logits of a whole text, outside of serving: for the self-test and for tests."""

from collections.abc import Sequence

import torch

from nimlite.kernels.base import Batch, Kernels, KVLayout
from nimlite.layers.decoder import Decoder


@torch.inference_mode()
def prompt_logits(model: Decoder, kernels: Kernels, token_ids: Sequence[int]) -> torch.Tensor:
    """fp32 logits_TV of every position of one text, computed in one step over a pool of its own."""
    layout = model.layout
    num_tokens = len(token_ids)
    num_blocks = -(-num_tokens // layout.block_size)
    own = KVLayout(
        num_blocks, layout.block_size, layout.num_kv_heads, layout.head_dim, layout.dtype
    )
    kv = kernels.allocate_kv(model.spec.num_layers, own)
    positions_T = torch.arange(num_tokens, dtype=torch.int32)
    batch = Batch(
        token_ids_T=torch.tensor(token_ids, dtype=torch.int32),
        positions_T=positions_T,
        slots_T=positions_T,
        query_starts_S1=torch.tensor([0, num_tokens], dtype=torch.int32),
        context_lens_S=torch.tensor([num_tokens], dtype=torch.int32),
        block_tables_SB=torch.arange(num_blocks, dtype=torch.int32)[None],
        logit_rows_R=positions_T,
    )
    return model(batch, kv, kernels)
