"""Paged attention of sequences with one query token each."""

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from nimlite.kernels.base import Batch, KVLayout
from nimlite.kernels.triton.attention_decode_kernel import decode
from nimlite.kernels.triton.device import KIB, Device
from nimlite.kernels.triton.scaled_rows import FP8

FEW = 64
"""Up to so many sequences, a program reads only so many lengths to find its work."""
_ALONE, _MANY = 16, 256
"""Up to so many sequences, each matters; from so many on, all that counts is the flow."""
_REGISTERS = 65536
"""Of an SM, for the threads of all its programs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeConfig:
    """How the work is cut. Each of heads * runs warps takes `run` tokens of one key/value head a
    turn of the loop."""

    heads: int
    """Key/value heads of a program."""
    runs: int
    run: int
    depth: int
    """Tiles on their way from memory while one is computed; shared memory holds them."""
    programs_per_sm: int
    min_tiles: int = 2
    """A program takes at least so many tiles: below, combining costs more than it saves."""

    @property
    def num_warps(self) -> int:
        return self.heads * self.runs

    @property
    def max_registers(self) -> int:
        """Of a thread, so that the programs of an SM have room."""
        return min(255, _REGISTERS // (32 * self.num_warps * self.programs_per_sm) // 8 * 8)

    def num_programs(self, layout: KVLayout, device: Device) -> int:
        """For the same `heads` key/value heads."""
        return max(1, device.num_sms * self.programs_per_sm * self.heads // layout.num_kv_heads)

    @classmethod
    def default(cls, layout: KVLayout, device: Device, num_sequences: int) -> "DecodeConfig":
        """The measured best of an H200, made smaller where shared memory is.

        A sequence's beginning and end cost as much as several tiles. With more than a few
        sequences two heads share them; with a few, each head's context is cut among twice as many
        programs, in large tiles.
        """
        narrow = layout.dtype.itemsize == 1
        if device.capability < (8, 0):
            # without tensor cores a thread holds all that it multiplies
            heads, runs, run, depth, programs = 1, 1, 16, 1, 4
        elif num_sequences <= _ALONE or layout.num_kv_heads % 2 == 1:
            heads, runs, run, depth, programs = 1, 4, 32, 2 if narrow else 1, 2
        elif narrow and num_sequences > _MANY:
            heads, runs, run, depth, programs = 2, 2, 16, 3, 3
        else:
            heads, runs, run, depth, programs = 2, 2, 16, 2, 2
        row_bytes = 2 * triton.next_power_of_2(layout.head_dim) * layout.dtype.itemsize
        run = math.gcd(run, layout.block_size)
        while programs * (depth * heads * runs * run * row_bytes + 8 * KIB) > device.shared_memory:
            if depth > 1:
                depth -= 1
            elif run > 16:
                run //= 2
            elif programs > 1:
                programs -= 1
            elif runs > 1:
                runs //= 2
            elif heads > 1:
                heads //= 2
            else:
                break
        return cls(heads=heads, runs=runs, run=run, depth=depth, programs_per_sm=programs)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeWorkspace:
    """Memory for the parts of sequences that several programs share. Launches of one stream may use
    the same."""

    num_programs: int
    """Programs a key/value head, at the most."""
    max_sequences: int
    partial: torch.Tensor
    """fp32 [programs, G, 2, heads of a group, K]: sums not yet divided."""
    statistics: torch.Tensor
    """fp32 [programs, G, 2, 2, heads of a group]: maximum and total."""
    arrivals: torch.Tensor
    """int32 [sequences, G], zero between launches."""

    @classmethod
    def allocate(
        cls,
        layout: KVLayout,
        num_heads: int,
        max_sequences: int,
        num_programs: int,
        where: torch.device,
    ) -> "DecodeWorkspace":
        groups = layout.num_kv_heads
        shape = (num_programs, groups, 2, num_heads // groups)
        return cls(
            num_programs=num_programs,
            max_sequences=max_sequences,
            partial=torch.empty((*shape, layout.head_dim), dtype=torch.float32, device=where),
            statistics=torch.empty((*shape, 2), dtype=torch.float32, device=where),
            arrivals=torch.zeros((max_sequences, groups), dtype=torch.int32, device=where),
        )


def attention_decode(
    qkv_TE: torch.Tensor,
    kv: torch.Tensor,
    batch: Batch,
    layout: KVLayout,
    o_TQ: torch.Tensor,
    scale: float,
    config: DecodeConfig,
    workspace: DecodeWorkspace,
    device: Device,
    *,
    kv_scales: tuple[float, float] = (1.0, 1.0),
    window: int = 0,
    soft_cap: float = 0.0,
    slopes_H: torch.Tensor | None = None,
    bias_HP: torch.Tensor | None = None,
) -> None:
    """Write o_T(H*K) of the sequences with one query token and a context; other rows stay as they
    are.

    `window` (0: none) is how many tokens a query sees, itself included; scores are capped to
    ± `soft_cap` (0: not at all); each token between query and key takes `slopes_H` (fp32) off,
    and `bias_HP` (`Scores`) is added by their distance.
    """
    dim = layout.head_dim
    num_heads = o_TQ.shape[1] // dim
    num_sequences = len(batch.context_lens_S)
    assert num_sequences <= workspace.max_sequences and kv.is_contiguous()
    group = num_heads // layout.num_kv_heads
    pairs = kv.dtype == FP8
    pool = kv.view(torch.int16) if pairs else kv
    num_programs = config.num_programs(layout, device)
    assert num_programs <= workspace.num_programs
    assert layout.num_kv_heads % config.heads == 0 and layout.block_size % config.run == 0
    decode[(layout.num_kv_heads // config.heads, num_programs)](
        qkv_TE,
        pool,
        o_TQ,
        workspace.partial,
        workspace.statistics,
        workspace.arrivals,
        batch.query_starts_S1,
        batch.context_lens_S,
        batch.block_tables_SB,
        slopes_H,
        bias_HP,
        num_sequences,
        qkv_TE.stride(0),
        o_TQ.stride(0),
        batch.block_tables_SB.stride(0),
        pool.stride(0),
        scale * kv_scales[0],
        kv_scales[1],
        soft_cap,
        config.min_tiles,
        WINDOW=window,
        SOFT_CAP=soft_cap > 0,
        REACH=0 if bias_HP is None else bias_HP.shape[1] // 2,
        NUM_KV_HEADS=layout.num_kv_heads,
        GROUP=group,
        GROUP_BLOCK=max(8, triton.next_power_of_2(group)),
        BLOCK_SIZE=layout.block_size,
        K=dim,
        K_BLOCK=triton.next_power_of_2(dim),
        HEADS=config.heads,
        RUNS=config.runs,
        RUN=config.run,
        S_BLOCK=FEW if num_sequences <= FEW else triton.next_power_of_2(workspace.max_sequences),
        DOT=dot_type(kv.dtype),
        PAIRS=pairs,
        OVERLAP=device.overlaps_launches,
        num_warps=config.num_warps,
        maxnreg=config.max_registers,
        num_stages=config.depth + 1,
        **device.launch_options,
    )


def dot_type(kv_dtype: torch.dtype) -> tl.dtype:
    """What tensor cores multiply: the pool's dtype, and fp16 for fp8 (which it holds exactly)."""
    return {
        torch.bfloat16: tl.bfloat16,
        torch.float16: tl.float16,
        torch.float32: tl.float32,
        torch.float8_e4m3fn: tl.float16,
    }[kv_dtype]
