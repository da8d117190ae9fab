"""`Ranks` over torch.distributed: gloo between CPUs, NCCL between GPUs."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore

from nimlite.layers.shard import Shard

_START = timedelta(minutes=10)
"""Ranks load different amounts, and compile, before they first meet."""
_HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """Where the ranks of one team find each other, in plain data."""

    port: int
    tp: int
    pp: int
    devices: tuple[int, ...] = ()
    """CUDA's number of each rank's GPU; none: the CPU."""

    @property
    def size(self) -> int:
        return self.tp * self.pp

    def device(self, rank: int) -> torch.device:
        return torch.device("cuda", self.devices[rank]) if self.devices else torch.device("cpu")


def open_store(size: int) -> TCPStore:
    """Rank 0's, at a free port."""
    return TCPStore(_HOST, 0, size, is_master=True, wait_for_workers=False, timeout=_START)


class ProcessRanks:
    """Rank `rank`'s end. A process has one at a time."""

    def __init__(self, meeting: Meeting, rank: int, store: TCPStore | None = None) -> None:
        """Waits for all others. `store`: rank 0's own."""
        device = meeting.device(rank)
        if device.type == "cuda":
            torch.cuda.set_device(device)
            # Not everywhere does multicast work, and one that does not hangs.
            os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
        if store is None:
            store = TCPStore(_HOST, meeting.port, meeting.size, timeout=_START)
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=PrefixStore("nimlite", store),
            rank=rank,
            world_size=meeting.size,
            timeout=_START,
        )
        self.rank = rank
        self.shard = Shard.of(rank, meeting.tp, meeting.pp)
        self.device = device
        tp = meeting.tp
        stages = [list(range(first, first + tp)) for first in range(0, meeting.size, tp)]
        groups = [dist.new_group(stage) for stage in stages]  # every rank makes all of them
        self._first = rank // tp * tp
        self._group = groups[rank // tp]
        self._next, self._previous = rank - tp, rank + tp  # the last stage comes first

    @property
    def num_stages(self) -> int:
        return self.shard.stages

    def send_step(self, message: np.ndarray) -> None:
        """Only rank 0 has a say (team.py)."""
        raise AssertionError("the first rank sends steps")

    def sum(self, x: torch.Tensor) -> None:
        dist.all_reduce(x, group=self._group)

    def gather(self, x_RN: torch.Tensor, y_RV: torch.Tensor, sizes: Sequence[int]) -> None:
        if self.shard.rank:
            dist.send(x_RN.contiguous(), self._first)
            return
        begin = sizes[0]
        y_RV[:, :begin] = x_RN
        for other, size in enumerate(sizes[1:], start=1):
            columns_RN = x_RN.new_empty((len(x_RN), size))
            dist.recv(columns_RN, self._first + other)
            y_RV[:, begin : begin + size] = columns_RN
            begin += size

    def send(self, x: torch.Tensor) -> None:
        dist.send(x, self._next)

    def receive(self, x: torch.Tensor) -> None:
        dist.recv(x, self._previous)

    def share(self, x: torch.Tensor) -> None:
        """Rank 0's x, to all."""
        dist.broadcast(x, 0)

    def least(self, number: int) -> int:
        """The smallest number that a rank has."""
        smallest = torch.tensor([number], dtype=torch.int64, device=self.device)
        dist.all_reduce(smallest, dist.ReduceOp.MIN)
        return int(smallest)

    def close(self) -> None:
        """Others may go on, but not with it."""
        dist.destroy_process_group()
