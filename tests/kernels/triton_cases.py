"""Random steps for the Triton kernels, on the GPU or in Triton's interpreter."""

from collections.abc import Sequence

import pytest
import torch

pytest.importorskip("triton", reason="needs triton, on a CPU machine for its interpreter")

from nimlite.kernels.base import Batch, KVLayout
from nimlite.kernels.triton.device import Device

WHERE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
DEVICE = Device.of(WHERE)
# bf16 tl.dot is wrong in the interpreter
DTYPE = torch.bfloat16 if torch.cuda.is_available() else torch.float16
TOLERANCE = 1e-2 if torch.cuda.is_available() else 2e-3


def random(*shape: int, dtype: torch.dtype = DTYPE, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(WHERE, dtype)


def relative_error(value: torch.Tensor, expected: torch.Tensor) -> float:
    """|value - expected| / |expected|; NaN where either holds one."""
    value, expected = value.float(), expected.float()
    return float((value - expected).norm() / expected.norm())


def step(lengths: Sequence[tuple[int, int]], block_size: int) -> tuple[Batch, int]:
    """A batch of sequences, each (query tokens, context), in shuffled blocks; their number.

    A sequence without a context is a padding row: its token has slot -1.
    """
    generator = torch.Generator().manual_seed(len(lengths))
    needed = [-(-context // block_size) for _, context in lengths]
    order = torch.randperm(sum(needed) + 3, generator=generator).int()
    tables = torch.zeros((len(lengths), max(*needed, 1) + 1), dtype=torch.int32)
    positions, slots, starts = [], [], [0]
    used = 0
    for s, (queries, context) in enumerate(lengths):
        tables[s, : needed[s]] = order[used : used + needed[s]]
        used += needed[s]
        token = torch.arange(context - queries, context).clamp(min=0)
        slot = tables[s, token // block_size] * block_size + token % block_size
        positions.append(token.int())
        slots.append(slot.int() if context else torch.full_like(slot, -1).int())
        starts.append(starts[-1] + queries)
    num_tokens = starts[-1]

    def int32(values: torch.Tensor | Sequence[int]) -> torch.Tensor:
        return torch.as_tensor(values, dtype=torch.int32).to(WHERE)

    batch = Batch(
        token_ids_T=int32(torch.randint(0, 100, (num_tokens,), generator=generator)),
        positions_T=int32(torch.cat(positions)),
        slots_T=int32(torch.cat(slots)),
        query_starts_S1=int32(starts),
        context_lens_S=int32([context for _, context in lengths]),
        block_tables_SB=int32(tables),
        logit_rows_R=int32([end - 1 for end in starts[1:]]),
    )
    return batch, len(order)


def pool(layout: KVLayout) -> torch.Tensor:
    """One layer's keys and values, all of them random: also those that no sequence owns."""
    shape = (2, layout.num_blocks, layout.num_kv_heads, layout.block_size, layout.head_dim)
    return random(*shape, dtype=torch.float32, seed=7).to(layout.dtype)
