"""Random steps for the CPU kernels."""

from dataclasses import dataclass

import torch

from nimlite.kernels.base import Batch, KVLayout


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """The shape of an attention layer."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    block_size: int = 16
    dtype: torch.dtype = torch.float32

    @property
    def qkv_size(self) -> int:
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim

    def layout(self, num_blocks: int) -> KVLayout:
        return KVLayout(num_blocks, self.block_size, self.num_kv_heads, self.head_dim, self.dtype)


def ragged_batch(
    chunks: list[tuple[int, int]], block_size: int, generator: torch.Generator
) -> tuple[Batch, int]:
    """A step of (context before, new tokens) a sequence, its blocks scattered over a pool of the
    returned size."""
    num_blocks = [-(-(before + new) // block_size) for before, new in chunks]
    shuffled = torch.randperm(sum(num_blocks) + 2, generator=generator).int()
    tables = torch.zeros(len(chunks), max(num_blocks) + 1, dtype=torch.int32)
    positions, slots, first = [], [], 0
    for s, (before, new) in enumerate(chunks):
        tables[s, : num_blocks[s]] = shuffled[first : first + num_blocks[s]]
        first += num_blocks[s]
        p = torch.arange(before, before + new, dtype=torch.int32)
        positions.append(p)
        slots.append(tables[s, p // block_size] * block_size + p % block_size)
    lengths = torch.tensor([0, *(new for _, new in chunks)], dtype=torch.int32)
    num_tokens = int(lengths.sum())
    batch = Batch(
        token_ids_T=torch.randint(0, 50, (num_tokens,), dtype=torch.int32, generator=generator),
        positions_T=torch.cat(positions),
        slots_T=torch.cat(slots),
        query_starts_S1=lengths.cumsum(0).int(),
        context_lens_S=torch.tensor([b + n for b, n in chunks], dtype=torch.int32),
        block_tables_SB=tables,
        logit_rows_R=(lengths.cumsum(0)[1:] - 1).int(),
    )
    return batch, len(shuffled)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def relative_error(value: torch.Tensor, expected: torch.Tensor) -> float:
    return float((value.float() - expected.float()).norm() / expected.float().norm())
