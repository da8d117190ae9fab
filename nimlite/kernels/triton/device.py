"""What the kernels need to know of a GPU, and how launches on it overlap."""

import functools
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

KIB = 1024


@dataclass(frozen=True, slots=True)
class Device:
    """The limits that block shapes are made from."""

    capability: tuple[int, int]
    num_sms: int
    shared_memory: int
    """Bytes that one program may use."""
    overlaps_launches: bool
    """Programmatic dependent launch: a kernel may start before the one it depends on has ended."""
    is_interpreted: bool = False
    """By Triton, on the CPU, which knows no assembly."""

    @property
    def has_bf16(self) -> bool:
        return self.capability >= (8, 0)

    @property
    def has_fp8(self) -> bool:
        """Tensor cores multiply fp8 e4m3."""
        return self.capability >= (8, 9)

    @property
    def has_copy_engine(self) -> bool:
        """It brings whole blocks to shared memory by their descriptors."""
        return self.capability >= (9, 0)

    @property
    def launch_options(self) -> dict[str, bool]:
        """Keyword arguments of every kernel launch."""
        return {"launch_pdl": True} if self.overlaps_launches else {}

    def programs(self, rows: int) -> int:
        """Into how many parts to split each of `rows` rows so that all SMs have two programs."""
        return max(1, 2 * self.num_sms // max(rows, 1))

    @classmethod
    def of(cls, device: torch.device) -> "Device":
        """The limits of a CUDA device; of a small H200 where Triton interprets on the CPU."""
        if device.type == "cpu":
            return INTERPRETED
        return _properties(device)


INTERPRETED = Device(
    (9, 0), num_sms=4, shared_memory=227 * KIB, overlaps_launches=False, is_interpreted=True
)
"""Few SMs, so that small tests split their work as large ones do."""


@functools.lru_cache
def _properties(device: torch.device) -> Device:
    properties = torch.cuda.get_device_properties(device)
    capability = (properties.major, properties.minor)
    return Device(
        capability,
        properties.multi_processor_count,
        properties.shared_memory_per_block_optin,  # type: ignore[attr-defined]
        overlaps_launches=capability >= (9, 0),
    )


@triton.jit
def await_inputs(OVERLAP: tl.constexpr):
    """Let the next kernel start (up to its own wait), and wait for what earlier kernels wrote.

    Every program of every kernel must come through here before it touches anything that a kernel
    wrote or reads: one that ended without waiting would let its successor overtake its predecessor.
    """
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()


@triton.jit
def prefetch(pointers, num_bytes):
    """Ask the L2 cache for `num_bytes` (a multiple of 16) from each pointer; from 9.0 on."""
    sizes = tl.zeros_like(pointers.to(tl.int64)).to(tl.int32) + num_bytes
    tl.inline_asm_elementwise(
        "cp.async.bulk.prefetch.L2.global [$1], $2; mov.u32 $0, 0;",
        "=r,l,r",
        [pointers.to(tl.int64), sizes],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )
