"""Bytes of files to where they are computed with: straight into memory, or through pinned memory to
a GPU."""

import itertools
import os
from collections.abc import Callable

import torch

from nimlite.store.block_digest import BLOCK_BYTES

CPU = torch.device("cpu")
Check = Callable[[memoryview], None]
"""Called with the bytes of every block that was read."""


class Staging:
    """One thread's way from files to `device`.

    For a GPU two pinned buffers take turns: one is read into while the other is copied. What is
    allocated and computed inside `on_device()` is ordered with the copies.
    """

    def __init__(self, device: torch.device = CPU, block_bytes: int = BLOCK_BYTES) -> None:
        self.device = device
        self._block_bytes = block_bytes
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        buffers = 0 if self._stream is None else 2
        self._turns = itertools.cycle([_Pinned(block_bytes) for _ in range(buffers)])

    def on_device(self) -> torch.cuda.StreamContext:
        """The stream of the copies as the current one."""
        return torch.cuda.stream(self._stream)

    def read(
        self, file: int, begin: int, target_B: torch.Tensor, check: Check | None = None
    ) -> None:
        """Fill `target_B` (uint8) with the bytes of the descriptor `file` from `begin` on. The
        copies may still be under way."""
        for first in range(0, len(target_B), self._block_bytes):
            part_B = target_B[first : first + self._block_bytes]
            if self._stream is None:
                block = _read(file, begin + first, part_B)
            else:
                pinned = next(self._turns)
                pinned.wait()
                block = _read(file, begin + first, pinned.bytes_B[: len(part_B)])
            if check is not None:
                check(block)
            if self._stream is not None:
                with self.on_device():
                    part_B.copy_(pinned.bytes_B[: len(part_B)], non_blocking=True)
                    pinned.copied = self._stream.record_event()

    def write(self, file: int, begin: int, source_B: torch.Tensor) -> None:
        """Write `source_B` (uint8, at most a block) to the descriptor `file` at `begin`."""
        if self._stream is not None:
            pinned = next(self._turns)
            with self.on_device():
                host_B = pinned.bytes_B[: len(source_B)].copy_(source_B, non_blocking=True)
            self.wait()
            source_B = host_B
        block, done = source_B.numpy().data, 0
        while done < len(block):
            done += os.pwrite(file, block[done:], begin + done)

    def wait(self) -> None:
        """Until all that was begun on the device is done."""
        if self._stream is not None:
            self._stream.synchronize()


class _Pinned:
    def __init__(self, num_bytes: int) -> None:
        self.bytes_B = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
        self.copied: torch.cuda.Event | None = None

    def wait(self) -> None:
        if self.copied is not None:
            self.copied.synchronize()


def _read(file: int, begin: int, target_B: torch.Tensor) -> memoryview:
    """Raises EOFError where the file ends before."""
    block = target_B.numpy().data
    done = 0
    while done < len(block):
        count = os.preadv(file, [block[done:]], begin + done)
        if count == 0:
            raise EOFError(f"the file ends {len(block) - done:,} bytes too early")
        done += count
    return block
