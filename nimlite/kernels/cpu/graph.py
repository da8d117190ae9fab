"""The CPU's counterpart of a CUDA graph: a step recorded once as a list of operations, and run in
one call.

A replay holds the interpreter's lock only to start: the threads that serve HTTP never wait for a
layer. Buffers have the size of the largest step, and behave as in a CUDA graph's pool: one returns
to the pool when the last tensor that views it is gone, so that all layers share a few.
"""

import ctypes
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable

import numpy as np
import torch

from nimlite.kernels.base import Counts
from nimlite.kernels.cpu.library import Team
from nimlite.kernels.cpu.op import Op, Rows, RunCounts


class BufferPool:
    """Buffers of a recording, reused by exact size."""

    def __init__(self) -> None:
        self._free: defaultdict[int, list[np.ndarray]] = defaultdict(list)
        self._all: dict[int, np.ndarray] = {}

    @property
    def num_bytes(self) -> int:
        return sum(buffer.nbytes for buffer in self._all.values())

    def owns(self, tensor: torch.Tensor) -> bool:
        return tensor.data_ptr() in self._all

    def view(self, tensor: torch.Tensor) -> torch.Tensor:
        """The same memory, which goes back to the pool even so."""
        buffer = self._all[tensor.data_ptr()]
        return torch.from_numpy(buffer.reshape(tensor.shape))

    def empty(self, num_rows: int, num_columns: int) -> torch.Tensor:
        """An fp32 tensor whose memory returns to the pool when its storage is freed."""
        size = num_rows * num_columns
        if not self._free[size]:
            buffer = torch.empty(size).numpy()
            self._all[buffer.ctypes.data] = buffer
            self._free[size].append(buffer)
        buffer = self._free[size].pop()
        # torch's storage keeps the view alive, and nothing else does
        view = buffer.reshape(num_rows, num_columns)
        weakref.finalize(view, self._free[size].append, buffer).atexit = False
        return torch.from_numpy(view)


class Graph:
    """A recorded list of operations over static buffers."""

    def __init__(self, team: Team, largest: Counts) -> None:
        self._team = team
        self._largest = largest
        self._pool = BufferPool()
        self._recorded: list[Op] = []
        self._parts: list[ctypes.Array[Op] | Callable[[Counts], None]] = []
        self._kept: list[torch.Tensor] = []
        self._logit_buffers: set[int] = set()

    @property
    def num_bytes(self) -> int:
        """Memory of the buffers."""
        return self._pool.num_bytes

    def empty(self, rows: Rows, num_columns: int) -> torch.Tensor:
        """A buffer for the largest step."""
        largest = self._largest
        num_rows = largest.num_tokens if rows is Rows.TOKENS else largest.num_rows
        tensor = self._pool.empty(num_rows, num_columns)
        if rows is Rows.LOGITS:
            self._logit_buffers.add(tensor.data_ptr())
        else:
            self._logit_buffers.discard(tensor.data_ptr())
        return tensor

    def rows_of(self, x: torch.Tensor) -> Rows:
        """Which count of the step is the number of rows of `x`."""
        return Rows.LOGITS if x.data_ptr() in self._logit_buffers else Rows.TOKENS

    def append(self, op: Op, tensors: Iterable[torch.Tensor | None]) -> None:
        """Record an operation over `tensors`; those that are not the graph's own are kept alive."""
        self._recorded.append(op)
        self._kept += [t for t in tensors if t is not None and not self._pool.owns(t)]

    def call(self, work: Callable[..., None], tensors: Iterable[torch.Tensor]) -> None:
        """Record a call of the interpreter, with the used rows of `tensors` of the graph."""
        views = [(self._pool.view(tensor), self.rows_of(tensor)) for tensor in tensors]

        def run(counts: Counts) -> None:
            used = {Rows.TOKENS: counts.num_tokens, Rows.LOGITS: counts.num_rows}
            work(*(view[: used[rows]] for view, rows in views))

        self.seal()
        self._parts.append(run)

    def seal(self) -> None:
        """End the recording."""
        if self._recorded:
            self._parts.append((Op * len(self._recorded))(*self._recorded))
        self._recorded = []

    def replay(self, counts: Counts) -> None:
        """Run the step on what the static buffers hold; results lie in the first rows of the
        recorded tensors."""
        tokens, sequences, rows = counts.num_tokens, counts.num_sequences, counts.num_rows
        assert tokens <= self._largest.num_tokens
        assert sequences <= self._largest.num_sequences
        assert rows <= self._largest.num_rows
        run_counts = RunCounts(tokens, sequences, rows)
        for part in self._parts:
            if isinstance(part, ctypes.Array):
                self._team.run(part, run_counts)
            else:
                part(counts)
