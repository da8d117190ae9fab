"""Ranks as threads of one process."""

import queue
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from nimlite.layers.shard import Shard

T = TypeVar("T")


class ThreadRanks:
    """`kernels.base.Ranks` of one thread; `mates` and `queues` are shared by all."""

    def __init__(self, shard: Shard, mates: "_Mates", queues: defaultdict) -> None:
        self._shard, self._mates, self._queues = shard, mates, queues

    def sum(self, x: torch.Tensor) -> None:
        shares = self._mates.exchange(self._shard.rank, x.clone())
        x.copy_(sum(shares[1:], shares[0]))

    def gather(self, x_RN: torch.Tensor, y_RV: torch.Tensor, sizes: Sequence[int]) -> None:
        shares = self._mates.exchange(self._shard.rank, x_RN)
        if self._shard.rank == 0:
            y_RV.copy_(torch.cat(shares, dim=1))

    def send(self, x: torch.Tensor) -> None:
        self._queues[self._shard.stage + 1, self._shard.rank].put(x.clone())

    def receive(self, x: torch.Tensor) -> None:
        x.copy_(self._queues[self._shard.stage, self._shard.rank].get(timeout=60))


class _Mates:
    def __init__(self, world: int) -> None:
        self._barrier = threading.Barrier(world, timeout=60)
        self._places: list[torch.Tensor] = [torch.empty(0)] * world

    def exchange(self, rank: int, x: torch.Tensor) -> list[torch.Tensor]:
        self._places[rank] = x
        self._barrier.wait()
        shares = list(self._places)
        self._barrier.wait()
        return shares


def on_ranks(tp: int, pp: int, work: Callable[[int, Shard, ThreadRanks], T]) -> T:
    """What `work` gives on rank 0; it runs on all at once."""
    shards = [Shard.of(rank, tp, pp) for rank in range(tp * pp)]
    mates = [_Mates(tp) for _ in range(pp)]
    queues: defaultdict = defaultdict(queue.SimpleQueue)
    for shard in shards:
        queues[shard.stage, shard.rank] = queue.SimpleQueue()
    with ThreadPoolExecutor(len(shards)) as threads:
        futures = [
            threads.submit(work, rank, shard, ThreadRanks(shard, mates[shard.stage], queues))
            for rank, shard in enumerate(shards)
        ]
        first, *_ = [future.result() for future in futures]
        return first
