"""`Kernels` in C++: each method describes one operation, which runs at once or is recorded."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from nimlite.kernels.base import Batch, Counts, Experts, Forward, KVLayout, Ranks, Scores, Step
from nimlite.kernels.cpu.graph import Graph
from nimlite.kernels.cpu.library import Library, Team
from nimlite.kernels.cpu.op import ACTIVATIONS, KV_TYPES, SCHEMES, Op, OpCode, Rows, RunCounts
from nimlite.quant.base import GROUP, TILE, PackedWeight

MAX_HEAD_DIM = 256
"""As in attention.cpp."""


def supports_heads(head_dim: int) -> bool:
    """Whether the kernels can do a model's attention."""
    return head_dim % 16 == 0 and head_dim <= MAX_HEAD_DIM


class CpuKernels:
    """Activations are fp32. A row's result depends on no other row of the step, bit for bit.

    For models whose heads it `supports_heads` of, over blocks of a multiple of 16 tokens.
    """

    def __init__(self, library: Library, num_threads: int, ranks: Ranks | None = None) -> None:
        self._team = Team(library, num_threads)
        self._ranks = ranks
        self._graph: Graph | None = None

    @property
    def library(self) -> Library:
        return self._team.library

    @property
    def num_threads(self) -> int:
        return self._team.num_threads

    def with_threads(self, num_threads: int) -> "CpuKernels":
        """The same kernels on another number of threads."""
        return CpuKernels(self._team.library, num_threads, self._ranks)

    def with_ranks(self, ranks: Ranks, num_threads: int) -> "CpuKernels":
        """The same kernels of one of several ranks."""
        return CpuKernels(self._team.library, num_threads, ranks)

    def allocate_kv(self, num_layers: int, layout: KVLayout) -> torch.Tensor:
        assert layout.block_size % 16 == 0
        assert supports_heads(layout.head_dim)
        # a head's keys and values of one block lie side by side: fewer, longer reads
        shape = (num_layers, layout.num_blocks, layout.num_kv_heads, 2)
        pool = torch.zeros(*shape, layout.block_size * layout.head_dim, dtype=layout.dtype)
        return pool.permute(0, 3, 1, 2, 4)

    def capture(self, forward: Forward, batch: Batch, *, decodes: bool = True) -> Step:
        with self.record(batch) as graph:
            logits_RV = forward(batch)

        def step(counts: Counts) -> torch.Tensor:
            graph.replay(counts)
            return logits_RV[: counts.num_rows]

        return step

    @contextmanager
    def record(self, batch: Batch) -> Iterator[Graph]:
        """Within it nothing runs: operations over the static buffers of `batch` are appended to the
        graph, and their results are buffers of the graph, for the largest step."""
        assert self._graph is None, "already recording"
        largest = Counts(len(batch.token_ids_T), len(batch.context_lens_S), len(batch.logit_rows_R))
        graph = self._graph = Graph(self._team, largest)
        try:
            yield graph
        finally:
            self._graph = None
        graph.seal()

    def embed(
        self, weight: PackedWeight, token_ids_T: torch.Tensor, scale: float = 1.0, first: int = 0
    ) -> torch.Tensor:
        y_TD = self._empty(token_ids_T, weight.num_columns)
        tensors = [token_ids_T, *_tensors(weight), y_TD]
        self._submit(OpCode.EMBED, token_ids_T, tensors, [*_sizes(weight), first], scale)
        return y_TD

    def add_positions(
        self, x_TD: torch.Tensor, table_PD: torch.Tensor, positions_T: torch.Tensor
    ) -> None:
        tensors = [x_TD, table_PD, positions_T]
        self._submit(OpCode.ADD_POSITIONS, x_TD, tensors, [x_TD.shape[1]])

    def widen(self, x_TD: torch.Tensor) -> torch.Tensor:
        return x_TD

    def rms_norm(
        self,
        x_TD: torch.Tensor,
        weight_D: torch.Tensor,
        eps: float,
        consumer: PackedWeight | None = None,
    ) -> torch.Tensor:
        y_TD = self._empty(x_TD, x_TD.shape[1])
        self._submit(OpCode.RMS_NORM, x_TD, [x_TD, weight_D, y_TD], [x_TD.shape[1]], eps)
        return y_TD

    def add_rms_norm(
        self,
        x_TD: torch.Tensor,
        residual_TD: torch.Tensor,
        weight_D: torch.Tensor,
        eps: float,
        consumer: PackedWeight | None = None,
    ) -> torch.Tensor:
        y_TD = self._empty(x_TD, x_TD.shape[1])
        self._submit(
            OpCode.ADD_RMS_NORM,
            x_TD,
            [x_TD, residual_TD, weight_D, y_TD],
            [x_TD.shape[1]],
            eps,
        )
        return y_TD

    def layer_norm(
        self,
        x_TD: torch.Tensor,
        weight_D: torch.Tensor,
        bias_D: torch.Tensor | None,
        eps: float,
        consumer: PackedWeight | None = None,
    ) -> torch.Tensor:
        y_TD = self._empty(x_TD, x_TD.shape[1])
        tensors = [x_TD, weight_D, bias_D, y_TD]
        self._submit(OpCode.LAYER_NORM, x_TD, tensors, [x_TD.shape[1]], eps)
        return y_TD

    def add_layer_norm(
        self,
        x_TD: torch.Tensor,
        residual_TD: torch.Tensor,
        weight_D: torch.Tensor,
        bias_D: torch.Tensor | None,
        eps: float,
        consumer: PackedWeight | None = None,
    ) -> torch.Tensor:
        y_TD = self._empty(x_TD, x_TD.shape[1])
        tensors = [x_TD, residual_TD, weight_D, bias_D, y_TD]
        self._submit(OpCode.ADD_LAYER_NORM, x_TD, tensors, [x_TD.shape[1]], eps)
        return y_TD

    def add(self, residual_TD: torch.Tensor, x_TD: torch.Tensor) -> None:
        self._submit(OpCode.ADD, x_TD, [residual_TD, x_TD], [x_TD.shape[1]])

    def linear(
        self,
        x_TC: torch.Tensor,
        weight: PackedWeight,
        bias_N: torch.Tensor | None,
        added: bool = False,
    ) -> torch.Tensor:
        assert x_TC.shape[1] == weight.num_columns
        y_TN = self._empty(x_TC, weight.num_rows)
        scratch = self._empty(x_TC, _scratch_floats(weight))
        self._submit(
            OpCode.LINEAR,
            x_TC,
            [x_TC, *_tensors(weight), bias_N, y_TN, scratch],
            _sizes(weight),
            weight.input_scale or 0.0,
        )
        return y_TN

    def head(
        self, x_RD: torch.Tensor, weight: PackedWeight, bias_N: torch.Tensor | None
    ) -> torch.Tensor:
        return self.linear(x_RD, weight, bias_N)

    def soft_cap(self, logits_RV: torch.Tensor, cap: float) -> None:
        self._submit(OpCode.SOFT_CAP, logits_RV, [logits_RV], [logits_RV.shape[1]], cap)

    def clip(self, qkv_TE: torch.Tensor, limit: float) -> None:
        self._submit(OpCode.CLIP, qkv_TE, [qkv_TE], [qkv_TE.shape[1]], limit)

    def norm_heads(
        self,
        qkv_TE: torch.Tensor,
        query_K: torch.Tensor,
        key_K: torch.Tensor,
        eps: float,
        layout: KVLayout,
    ) -> None:
        sizes = _kv_sizes(layout, _num_heads(qkv_TE, layout))
        self._submit(OpCode.NORM_HEADS, qkv_TE, [qkv_TE, query_K, key_K], sizes, eps)

    def rope_and_cache(
        self,
        qkv_TE: torch.Tensor,
        cos_sin_PR: torch.Tensor | None,
        kv: torch.Tensor,
        batch: Batch,
        layout: KVLayout,
    ) -> None:
        rotary_dim = 0 if cos_sin_PR is None else cos_sin_PR.shape[1]
        self._submit(
            OpCode.ROPE_AND_CACHE,
            qkv_TE,
            [qkv_TE, kv[0], kv[1], cos_sin_PR, batch.positions_T, batch.slots_T],
            [*_kv_sizes(layout, _num_heads(qkv_TE, layout)), rotary_dim],
        )

    def attention(
        self,
        qkv_TE: torch.Tensor,
        kv: torch.Tensor,
        batch: Batch,
        layout: KVLayout,
        num_heads: int,
        scores: Scores,
    ) -> torch.Tensor:
        y_TD = self._empty(qkv_TE, num_heads * layout.head_dim)
        tables = batch.block_tables_SB
        sequences = [batch.query_starts_S1, batch.context_lens_S, tables]
        reach = 0 if scores.bias_HP is None else scores.bias_HP.shape[1] // 2
        bent = [scores.window, qkv_TE.shape[1], int(scores.causal), reach]
        self._submit(
            OpCode.ATTENTION,
            qkv_TE,
            [qkv_TE, kv[0], kv[1], *sequences, y_TD, scores.slopes_H, scores.bias_HP],
            [*_kv_sizes(layout, num_heads), tables.shape[1], *bent],
            scores.scale,
            scores.soft_cap,
            num_sequences=len(batch.context_lens_S),
        )
        return y_TD

    def gated_activation(
        self, gate_up_T2I: torch.Tensor, activation: str, consumer: PackedWeight | None = None
    ) -> torch.Tensor:
        size = gate_up_T2I.shape[1] // 2
        y_TI = self._empty(gate_up_T2I, size)
        self._submit(
            OpCode.GATED_ACTIVATION,
            gate_up_T2I,
            [gate_up_T2I, y_TI],
            [size, ACTIVATIONS[activation]],
        )
        return y_TI

    def activation(
        self, x_TI: torch.Tensor, activation: str, consumer: PackedWeight | None = None
    ) -> torch.Tensor:
        size = x_TI.shape[1]
        y_TI = self._empty(x_TI, size)
        self._submit(OpCode.ACTIVATION, x_TI, [x_TI, y_TI], [size, ACTIVATIONS[activation]])
        return y_TI

    def moe(self, x_TD: torch.Tensor, router_TE: torch.Tensor, experts: Experts) -> torch.Tensor:
        up, down, num_experts, k = experts.up, experts.down, experts.num_experts, experts.per_token
        assert up.num_rows // num_experts % TILE == down.num_rows // num_experts % TILE == 0
        packed = max(_scratch_floats(up), _scratch_floats(down))
        # four words for each of a token's places, what goes in and out of both products, and where
        # each expert's places begin
        words = k * (4 + up.num_columns + 3 * down.num_columns + packed) + num_experts + 1
        y_TD, scratch = self._empty(x_TD, x_TD.shape[1]), self._empty(x_TD, words)
        self._submit(
            OpCode.MOE,
            x_TD,
            [x_TD, *_tensors(up), router_TE, *_tensors(down), y_TD, scratch],
            [
                *_sizes(up),
                *_sizes(down),
                *(num_experts, k, experts.normalize, ACTIVATIONS[experts.activation]),
                *(0 if t is None else t.nbytes // num_experts for t in _tensors(up)),
                *(0 if t is None else t.nbytes // num_experts for t in _tensors(down)),
            ],
        )
        return y_TD

    def add_gated(self, y_TD: torch.Tensor, x_TD: torch.Tensor, gate_T1: torch.Tensor) -> None:
        self._submit(OpCode.ADD_GATED, y_TD, [y_TD, x_TD, gate_T1], [y_TD.shape[1]])

    def take_rows(self, x_TD: torch.Tensor, rows_R: torch.Tensor) -> torch.Tensor:
        size = x_TD.shape[1]
        if self._graph is None:
            y_RD = torch.empty(len(rows_R), size)
        else:
            y_RD = self._graph.empty(Rows.LOGITS, size)
        self._submit(OpCode.TAKE_ROWS, y_RD, [x_TD, rows_R, y_RD], [size])
        return y_RD

    def sum_ranks(self, x_TD: torch.Tensor, added: bool = False) -> torch.Tensor:
        assert self._ranks is not None
        self._call(self._ranks.sum, x_TD)
        return x_TD

    def gather_columns(self, x_RN: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        ranks = self._ranks
        assert ranks is not None
        y_RV = self._empty(x_RN, sum(sizes))
        self._call(lambda x_RN, y_RV: ranks.gather(x_RN, y_RV, sizes), x_RN, y_RV)
        return y_RV

    def send_on(self, x_TD: torch.Tensor) -> None:
        assert self._ranks is not None
        self._call(self._ranks.send, x_TD)

    def take_over(self, token_ids_T: torch.Tensor, num_columns: int) -> torch.Tensor:
        assert self._ranks is not None
        x_TD = self._empty(token_ids_T, num_columns)
        self._call(self._ranks.receive, x_TD)
        return x_TD

    def _call(self, work: Callable[..., None], *tensors: torch.Tensor) -> None:
        """Record work of the interpreter, or do it now."""
        if self._graph is None:
            work(*tensors)
        else:
            self._graph.call(work, tensors)

    def _empty(self, like: torch.Tensor, num_columns: int) -> torch.Tensor:
        """A tensor with as many rows as `like`."""
        if self._graph is None:
            return torch.empty(len(like), num_columns)
        return self._graph.empty(self._graph.rows_of(like), num_columns)

    def _submit(
        self,
        code: OpCode,
        like: torch.Tensor,
        tensors: Sequence[torch.Tensor | None],
        sizes: list[int],
        *scalars: float,
        num_sequences: int = 0,
    ) -> None:
        """Record the operation, or run it on the rows of `like`."""
        if self._graph is not None:
            op = Op.of(code, self._graph.rows_of(like), tensors, sizes, scalars)
            self._graph.append(op, tensors)
            return
        op = Op.of(code, Rows.TOKENS, tensors, sizes, scalars)
        counts = RunCounts(len(like), num_sequences, 0)
        self._team.run((Op * 1)(op), counts)


def _tensors(weight: PackedWeight) -> list[torch.Tensor | None]:
    tensors = weight.tensors
    return [tensors["weight"], tensors.get("scale"), tensors.get("minimum")]


def _sizes(weight: PackedWeight) -> list[int]:
    return [SCHEMES[weight.scheme], weight.num_rows, weight.num_columns]


def _scratch_floats(weight: PackedWeight) -> int:
    """Words for one packed row of activations: fp32, or int8 with a scale and a sum for each group
    (weights.h)."""
    if weight.scheme in ("int8", "int4"):
        return weight.num_columns // GROUP * (GROUP + 8) // 4
    return weight.num_columns


def _num_heads(qkv_TE: torch.Tensor, layout: KVLayout) -> int:
    return qkv_TE.shape[1] // layout.head_dim - 2 * layout.num_kv_heads


def _kv_sizes(layout: KVLayout, num_heads: int) -> list[int]:
    return [
        KV_TYPES[layout.dtype],
        num_heads,
        layout.num_kv_heads,
        layout.head_dim,
        layout.block_size,
    ]
