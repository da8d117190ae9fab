"""Paged attention in C++ against the torch twin, and its independence of the batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import Heads, ragged_batch, random, relative_error

from nimlite.kernels.base import Batch, Kernels, Scores
from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.kernels.cpu.library import Library
from nimlite.kernels.torch_kernels import TorchKernels

SMOL = Heads(num_heads=9, num_kv_heads=3, head_dim=64)
SHAPES = [
    SMOL,
    Heads(num_heads=9, num_kv_heads=3, head_dim=64, dtype=torch.bfloat16),
    Heads(num_heads=4, num_kv_heads=4, head_dim=16, block_size=32, dtype=torch.bfloat16),
    Heads(num_heads=4, num_kv_heads=2, head_dim=32, block_size=48),
    Heads(num_heads=7, num_kv_heads=1, head_dim=80),
    Heads(num_heads=2, num_kv_heads=1, head_dim=96, dtype=torch.bfloat16),
    Heads(num_heads=9, num_kv_heads=3, head_dim=64, dtype=torch.float8_e4m3fn),
    Heads(num_heads=32, num_kv_heads=2, head_dim=128, block_size=64),
    Heads(num_heads=2, num_kv_heads=2, head_dim=256),
]
Chunks = list[tuple[int, int]]
PLAIN = Scores(scale=0.1)
SLOPES_H = torch.linspace(0.02, 1.0, 9)
BIAS_HP = torch.linspace(-3.0, 3.0, 9 * 41).view(9, 41).sin()
BENT = {
    "window": Scores(scale=0.1, window=20),
    "wider window": Scores(scale=0.1, window=70),
    "cap": Scores(scale=0.1, soft_cap=0.4),
    "slopes": Scores(scale=0.1, slopes_H=SLOPES_H),
    "window and cap": Scores(scale=0.1, window=33, soft_cap=0.4),
    "bias": Scores(scale=1.0, bias_HP=BIAS_HP),
    "bias, all seen": Scores(scale=0.1, bias_HP=BIAS_HP, causal=False),
    "all seen": Scores(scale=0.1, causal=False),
}


class Pool:
    """A pool that holds the whole context of `chunks`, and the queries of all its tokens."""

    def __init__(self, kernels: Kernels, heads: Heads, chunks: Chunks) -> None:
        self.kernels, self.heads = kernels, heads
        contexts = [(0, before + new) for before, new in chunks]
        self.whole, num_blocks = self._batch(contexts)
        self.layout = heads.layout(num_blocks)
        self.kv = kernels.allocate_kv(1, self.layout)[0]
        self.qkv_TE = random(len(self.whole.positions_T), heads.qkv_size)
        cos_sin_PK = random(int(self.whole.positions_T.max()) + 1, heads.head_dim, seed=1)
        kernels.rope_and_cache(self.qkv_TE, cos_sin_PK, self.kv, self.whole, self.layout)

    def _batch(self, chunks: Chunks) -> tuple[Batch, int]:
        """The same blocks for the same contexts."""
        return ragged_batch(chunks, self.heads.block_size, torch.Generator().manual_seed(7))

    def attend(self, chunks: Chunks, scores: Scores = PLAIN) -> tuple[torch.Tensor, torch.Tensor]:
        """The output of the queries in `chunks`, and which rows of the whole they are."""
        batch, _ = self._batch(chunks)
        starts = self.whole.query_starts_S1.tolist()
        rows = torch.cat(
            [
                torch.arange(start + before, start + before + new)
                for start, (before, new) in zip(starts, chunks, strict=False)
            ]
        )
        o_TD = self.kernels.attention(
            self.qkv_TE[rows], self.kv, batch, self.layout, self.heads.num_heads, scores
        )
        return o_TD, rows


@pytest.mark.parametrize("heads", SHAPES, ids=str)
def test_attention_is_the_twin_s(kernels: CpuKernels, heads: Heads) -> None:
    chunks = [(0, 37), (100, 1), (63, 1), (64, 70), (5, 3), (0, 1), (127, 2)]
    value, _ = Pool(kernels, heads, chunks).attend(chunks)
    expected, _ = Pool(TorchKernels(), heads, chunks).attend(chunks)
    assert relative_error(value, expected) <= 2e-6


@pytest.mark.parametrize("scores", BENT.values(), ids=BENT)
def test_bent_scores_are_the_twin_s(kernels: CpuKernels, scores: Scores) -> None:
    chunks = [(0, 37), (100, 1), (63, 1), (64, 70), (5, 3), (0, 1), (127, 2)]
    pool = Pool(kernels, SMOL, chunks)
    value, rows = pool.attend(chunks, scores)
    expected, _ = Pool(TorchKernels(), SMOL, chunks).attend(chunks, scores)
    assert relative_error(value, expected) <= 2e-6
    together, _ = pool.attend([(0, before + new) for before, new in chunks], scores)
    assert torch.equal(value, together[rows])


@given(
    st.lists(st.tuples(st.integers(0, 150), st.integers(1, 40)), min_size=1, max_size=4),
    st.sampled_from(SHAPES),
)
@settings(max_examples=25, deadline=None)
def test_a_query_s_result_does_not_depend_on_the_step_it_is_computed_in(
    library: Library, chunks: Chunks, heads: Heads
) -> None:
    pool = Pool(CpuKernels(library, num_threads=1), heads, chunks)
    together, _ = pool.attend([(0, before + new) for before, new in chunks])
    value, rows = pool.attend(chunks)
    assert torch.equal(value, together[rows])


def test_what_a_block_held_before_does_not_matter(kernels: CpuKernels) -> None:
    """Blocks are handed on without being cleared, whatever is in them."""
    chunks = [(0, 21), (16, 1)]
    for heads in SHAPES[:2]:
        pool = Pool(kernels, heads, chunks)
        expected, _ = pool.attend(chunks)
        dirty = Pool(kernels, heads, chunks)
        unwritten = dirty.kv == 0
        dirty.kv[unwritten] = torch.nan
        value, _ = dirty.attend(chunks)
        assert torch.equal(value, expected)


def test_threads_do_not_change_the_result(kernels: CpuKernels) -> None:
    chunks = [(0, 50), (90, 1), (10, 3)]
    expected, _ = Pool(kernels, SMOL, chunks).attend(chunks)
    value, _ = Pool(kernels.with_threads(3), SMOL, chunks).attend(chunks)
    assert torch.equal(value, expected)
