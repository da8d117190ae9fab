from typing import Any

import pytest
import torch
from triton_cases import DEVICE, DTYPE, TOLERANCE, WHERE, pool, random, relative_error, step

from nimlite.kernels.base import KVLayout
from nimlite.kernels.triton import reference
from nimlite.kernels.triton.attention_decode import (
    DecodeConfig,
    DecodeWorkspace,
    attention_decode,
)
from nimlite.kernels.triton.attention_prefill import PrefillConfig, attention_prefill

DECODES = [(1, 1), (1, 2), (1, 63), (1, 64), (1, 65), (1, 300), (1, 17)]
CHUNKS = [(5, 5), (33, 130), (2, 190), (64, 64)]


def attend(
    lengths: list[tuple[int, int]],
    num_heads: int = 8,
    groups: int = 2,
    dim: int = 64,
    block_size: int = 16,
    kv_dtype: torch.dtype = DTYPE,
    decode: DecodeConfig | None = None,
    causal: bool = True,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(kernels' output, twin's output) of one step: decode kernel, then prefill kernel."""
    batch, num_blocks = step(lengths, block_size)
    layout = KVLayout(num_blocks, block_size, groups, dim, kv_dtype)
    kv = pool(layout)
    qkv = random(int(batch.query_starts_S1[-1]), (num_heads + 2 * groups) * dim)
    decode = decode or DecodeConfig.default(layout, DEVICE, len(lengths))
    workspace = DecodeWorkspace.allocate(
        layout, num_heads, 16, decode.num_programs(layout, DEVICE), WHERE
    )
    o = torch.full((len(qkv), num_heads * dim), torch.nan, dtype=DTYPE, device=WHERE)
    scale = dim**-0.5
    attention_decode(qkv, kv, batch, layout, o, scale, decode, workspace, DEVICE, **options)
    prefill = PrefillConfig(rows=32, tile=32, depth=1, num_warps=4)
    attention_prefill(
        qkv,
        kv,
        batch,
        layout,
        o,
        scale,
        prefill,
        DEVICE,
        max_sequences=16,
        causal=causal,
        **options,
    )
    assert int(workspace.arrivals.abs().sum()) == 0
    expected = reference.attention(
        qkv, kv, batch, layout, num_heads, scale, causal=causal, **options
    )
    seen = torch.cat([torch.full((q,), c > 0) for q, c in lengths])
    return o[seen], expected[seen]


def cut(heads: int, runs: int, run: int = 16) -> DecodeConfig:
    return DecodeConfig(heads=heads, runs=runs, run=run, depth=1, programs_per_sm=2, min_tiles=1)


@pytest.mark.parametrize(
    ("block_size", "decode"),
    [(16, cut(1, 4)), (64, cut(4, 1)), (64, cut(2, 2, 32)), (16, cut(2, 2)), (64, cut(1, 2))],
)
def test_decodes_and_chunks_of_one_step(block_size: int, decode: DecodeConfig) -> None:
    o, expected = attend(DECODES + CHUNKS, decode=decode, groups=4, block_size=block_size)
    assert relative_error(o, expected) < TOLERANCE


def test_padding_rows_of_a_recorded_batch_are_left_alone() -> None:
    o, expected = attend([*DECODES, (1, 0), (1, 0)], decode=cut(1, 4))
    assert relative_error(o, expected) < TOLERANCE


@pytest.mark.parametrize(("num_heads", "groups"), [(4, 4), (7, 1), (8, 1), (14, 2)])
def test_any_number_of_heads_a_group(num_heads: int, groups: int) -> None:
    o, expected = attend([(1, 70), (9, 40)], num_heads=num_heads, groups=groups, decode=cut(1, 4))
    assert relative_error(o, expected) < TOLERANCE


@pytest.mark.parametrize("dim", [80, 96, 128, 256])
def test_head_sizes(dim: int) -> None:
    o, expected = attend([(1, 70), (1, 5), (9, 40)], dim=dim)
    assert relative_error(o, expected) < TOLERANCE


@pytest.mark.parametrize("options", [{"window": 20}, {"window": 64}, {"soft_cap": 0.5}])
def test_sliding_window_and_soft_cap(options: dict[str, float]) -> None:
    o, expected = attend(DECODES + CHUNKS, decode=cut(1, 4), **options)
    assert relative_error(o, expected) < TOLERANCE


@pytest.mark.parametrize("options", [{}, {"window": 20}, {"soft_cap": 2.0}])
@pytest.mark.parametrize("decode", [cut(1, 4), cut(2, 2)])
def test_scores_that_lose_with_distance(decode: DecodeConfig, options: dict[str, float]) -> None:
    slopes = torch.linspace(0.01, 0.5, 8, device=WHERE)
    o, expected = attend(DECODES + CHUNKS, decode=decode, slopes_H=slopes, **options)
    assert relative_error(o, expected) < TOLERANCE


@pytest.mark.parametrize("causal", [True, False])
def test_scores_with_a_value_for_their_distance(causal: bool) -> None:
    bias = torch.linspace(-3.0, 3.0, 8 * 41, device=WHERE).view(8, 41).sin()
    for decode in (cut(1, 4), cut(2, 2)):
        o, expected = attend(DECODES + CHUNKS, decode=decode, causal=causal, bias_HP=bias)
        assert relative_error(o, expected) < TOLERANCE


def test_queries_that_see_all_of_a_context() -> None:
    o, expected = attend([(1, 70), (33, 130), (64, 64), (9, 3)], causal=False)
    assert relative_error(o, expected) < TOLERANCE


def test_fp8_pool_with_scales() -> None:
    o, expected = attend(
        DECODES + CHUNKS, kv_dtype=torch.float8_e4m3fn, decode=cut(1, 4), kv_scales=(0.5, 2.0)
    )
    assert relative_error(o, expected) < TOLERANCE


def test_one_long_context_is_split_over_all_programs() -> None:
    o, expected = attend([(1, 4097)], num_heads=4, groups=1, decode=cut(1, 4), block_size=64)
    assert relative_error(o, expected) < TOLERANCE


def test_a_nan_past_the_context_does_not_reach_the_output() -> None:
    batch, num_blocks = step([(1, 5), (3, 20)], 16)
    layout = KVLayout(num_blocks, 16, 1, 64, DTYPE)
    kv = pool(layout)
    kv[:, batch.block_tables_SB[0, 0].item(), :, 5:] = torch.nan
    kv[:, batch.block_tables_SB[1, 1].item(), :, 4:] = torch.nan
    qkv = random(4, 3 * 64)
    config = DecodeConfig.default(layout, DEVICE, 2)
    programs = config.num_programs(layout, DEVICE)
    workspace = DecodeWorkspace.allocate(layout, 1, 2, programs, WHERE)
    o = torch.empty((4, 64), dtype=DTYPE, device=WHERE)
    attention_decode(qkv, kv, batch, layout, o, 0.125, config, workspace, DEVICE)
    prefill = PrefillConfig.default(layout, DEVICE)
    attention_prefill(qkv, kv, batch, layout, o, 0.125, prefill, DEVICE, max_sequences=2)
    assert relative_error(o, reference.attention(qkv, kv, batch, layout, 1, 0.125)) < TOLERANCE
