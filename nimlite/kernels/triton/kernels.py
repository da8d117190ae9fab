"""`Kernels` on one CUDA GPU."""

from collections.abc import Sequence
from typing import Any

import torch

from nimlite.kernels.base import Batch, Experts, Forward, KVLayout, Ranks, Scores, Step
from nimlite.kernels.torch_kernels import used_part
from nimlite.kernels.triton import (
    activation,
    elementwise,
    embed,
    moe,
    norm,
    pool,
    rope,
)
from nimlite.kernels.triton.attention_decode import (
    DecodeConfig,
    DecodeWorkspace,
    attention_decode,
)
from nimlite.kernels.triton.attention_prefill import PrefillConfig, attention_prefill
from nimlite.kernels.triton.device import Device
from nimlite.kernels.triton.graphs import DecodeGraphs, batch_sizes
from nimlite.kernels.triton.linear import LinearConfig, LinearWorkspace
from nimlite.kernels.triton.product import bucket, candidates, is_vector, product
from nimlite.kernels.triton.scaled_rows import FP8, ScaledRows, UnsummedRows
from nimlite.kernels.triton.tuning import Choices, choice_key
from nimlite.quant.base import PackedWeight


class TritonKernels:
    """The operations in Triton, and products of many rows in cuBLAS.

    What every layer adds to, the residual, is fp32: rounding it to 16 bits after each layer moves
    more greedy tokens than the other rounding of activations (docs/performance.md).

    Where the next operation multiplies with an fp8 weight, norms and activations may be told so
    (`consumer`): they then return `ScaledRows`, which only `linear` takes. A product that is
    `added` may be left as `UnsummedRows`, which only `add_rms_norm` takes.
    """

    def __init__(
        self,
        where: torch.device,
        dtype: torch.dtype,
        max_sequences: int,
        choices: Choices | None = None,
        kv_scales: tuple[float, float] = (1.0, 1.0),
        ranks: Ranks | None = None,
    ) -> None:
        """`dtype` of the activations: bf16, or fp16 before compute capability 8.0."""
        self.device = Device.of(where)
        self._where = where
        self._dtype = dtype
        self._max_sequences = max_sequences
        self._choices = choices or {}
        self._kv_scales = kv_scales
        self._ranks = ranks
        self._configs: dict[tuple[str, int, int, int, bool], LinearConfig | None] = {}
        self._workspace = LinearWorkspace.allocate(where)
        self._decode: dict[tuple[KVLayout, int], DecodeWorkspace] = {}

    def allocate_kv(self, num_layers: int, layout: KVLayout) -> torch.Tensor:
        return pool.allocate_kv(num_layers, layout, self._where)

    def capture(self, forward: Forward, batch: Batch, *, decodes: bool = True) -> Step:
        if self._where.type != "cuda" or not decodes:
            return lambda counts: forward(used_part(batch, counts))
        largest = min(len(batch.context_lens_S), len(batch.logit_rows_R), self._max_sequences)
        return DecodeGraphs(forward, batch, batch_sizes(largest))

    def embed(
        self, weight: PackedWeight, token_ids_T: torch.Tensor, scale: float = 1.0, first: int = 0
    ) -> torch.Tensor:
        table, factor = _dense(weight), None if scale == 1.0 else scale
        begin = None if self._ranks is None else first
        return embed.embed(table, token_ids_T, self.device, torch.float32, factor, begin)

    def add_positions(
        self, x_TD: torch.Tensor, table_PD: torch.Tensor, positions_T: torch.Tensor
    ) -> None:
        elementwise.add(x_TD, table_PD, self.device, positions_T)

    def widen(self, x_TD: torch.Tensor) -> torch.Tensor:
        return x_TD.float()

    def rms_norm(
        self,
        x_TD: torch.Tensor,
        weight_D: torch.Tensor,
        eps: float,
        consumer: PackedWeight | None = None,
    ) -> Any:
        consumer = self._rounding(consumer, len(x_TD))
        return norm.rms_norm(x_TD, weight_D, eps, self.device, consumer, self._dtype)

    def add_rms_norm(
        self,
        x: torch.Tensor | UnsummedRows,
        residual_TD: torch.Tensor,
        weight_D: torch.Tensor,
        eps: float,
        consumer: PackedWeight | None = None,
    ) -> Any:
        consumer = self._rounding(consumer, len(residual_TD))
        return norm.add_rms_norm(x, residual_TD, weight_D, eps, self.device, consumer, self._dtype)

    def layer_norm(
        self,
        x_TD: torch.Tensor,
        weight_D: torch.Tensor,
        bias_D: torch.Tensor | None,
        eps: float,
        consumer: PackedWeight | None = None,
    ) -> Any:
        consumer = self._rounding(consumer, len(x_TD))
        return norm.layer_norm(x_TD, weight_D, bias_D, eps, self.device, consumer, self._dtype)

    def add_layer_norm(
        self,
        x: torch.Tensor | UnsummedRows,
        residual_TD: torch.Tensor,
        weight_D: torch.Tensor,
        bias_D: torch.Tensor | None,
        eps: float,
        consumer: PackedWeight | None = None,
    ) -> Any:
        consumer = self._rounding(consumer, len(residual_TD))
        rest = (eps, self.device, consumer, self._dtype)
        return norm.add_layer_norm(x, residual_TD, weight_D, bias_D, *rest)

    def add(self, residual_TD: torch.Tensor, x: torch.Tensor | UnsummedRows) -> None:
        x_TD = x if isinstance(x, torch.Tensor) else x.summed()
        elementwise.add(residual_TD, x_TD, self.device)

    def gated_activation(
        self, gate_up_T2I: torch.Tensor, activation_name: str, consumer: PackedWeight | None = None
    ) -> Any:
        consumer = self._rounding(consumer, len(gate_up_T2I))
        return activation.gated_activation(gate_up_T2I, activation_name, self.device, consumer)

    def activation(
        self, x_TI: torch.Tensor, activation_name: str, consumer: PackedWeight | None = None
    ) -> Any:
        consumer = self._rounding(consumer, len(x_TI))
        return activation.plain_activation(x_TI, activation_name, self.device, consumer)

    def linear(
        self,
        x: torch.Tensor | ScaledRows,
        weight: PackedWeight,
        bias_N: torch.Tensor | None,
        added: bool = False,
    ) -> Any:
        sums = not added or bias_N is not None
        return self._product(x, weight, bias_N, self._dtype, sums)

    def head(
        self, x: torch.Tensor | ScaledRows, weight: PackedWeight, bias_N: torch.Tensor | None
    ) -> Any:
        return self._product(x, weight, bias_N, torch.float32, True)

    def _product(
        self,
        x: torch.Tensor | ScaledRows,
        weight: PackedWeight,
        bias_N: torch.Tensor | None,
        dtype: torch.dtype,
        sums: bool,
    ) -> Any:
        num_rows = len(x.values_TC) if isinstance(x, ScaledRows) else len(x)
        config = self._config(weight, num_rows, sums)
        rest = (config, self._workspace, self.device, dtype)
        return product(x, weight, bias_N, *rest, sums=sums)

    def _rounding(self, consumer: PackedWeight | None, num_rows: int) -> PackedWeight | None:
        """The consumer, unless it takes its rows in 16 bits."""
        if consumer is None or num_rows > 1:
            return consumer
        is_wide = all(is_vector(self._config(consumer, 1, sums)) for sums in (True, False))
        return None if is_wide else consumer

    def soft_cap(self, logits_RV: torch.Tensor, cap: float) -> None:
        elementwise.limit(logits_RV, cap, self.device, soft=True)

    def clip(self, qkv_TE: torch.Tensor, limit: float) -> None:
        elementwise.limit(qkv_TE, limit, self.device, soft=False)

    def norm_heads(
        self,
        qkv_TE: torch.Tensor,
        query_K: torch.Tensor,
        key_K: torch.Tensor,
        eps: float,
        layout: KVLayout,
    ) -> None:
        elementwise.norm_heads(qkv_TE, query_K, key_K, eps, layout, self.device)

    def rope_and_cache(
        self,
        qkv_TE: torch.Tensor,
        cos_sin_PR: torch.Tensor | None,
        kv: torch.Tensor,
        batch: Batch,
        layout: KVLayout,
    ) -> None:
        rope.rope_and_cache(qkv_TE, cos_sin_PR, kv, batch, layout, self.device, self._kv_scales)

    def attention(
        self,
        qkv_TE: torch.Tensor,
        kv: torch.Tensor,
        batch: Batch,
        layout: KVLayout,
        num_heads: int,
        scores: Scores,
    ) -> torch.Tensor:
        config = DecodeConfig.default(layout, self.device, len(batch.context_lens_S))
        workspace = self._decode_workspace(layout, num_heads)
        o_TQ = qkv_TE.new_empty((len(qkv_TE), num_heads * layout.head_dim))
        options: dict[str, Any] = {
            "kv_scales": self._kv_scales,
            "window": scores.window,
            "soft_cap": scores.soft_cap,
            "slopes_H": scores.slopes_H,
            "bias_HP": scores.bias_HP,
        }
        common = (qkv_TE, kv, batch, layout, o_TQ, scores.scale)
        attention_decode(*common, config, workspace, self.device, **options)
        if len(qkv_TE) > len(batch.context_lens_S):
            prefill = PrefillConfig.default(layout, self.device)
            attention_prefill(
                *common,
                prefill,
                self.device,
                max_sequences=self._max_sequences,
                causal=scores.causal,
                **options,
            )
        return o_TQ

    def moe(self, x_TD: torch.Tensor, router_TE: torch.Tensor, experts: Experts) -> torch.Tensor:
        return moe.moe(x_TD, router_TE, experts, self.device)

    def add_gated(self, y_TD: torch.Tensor, x_TD: torch.Tensor, gate_T1: torch.Tensor) -> None:
        y_TD.addcmul_(x_TD, gate_T1.sigmoid())

    def take_rows(self, x_TD: torch.Tensor, rows_R: torch.Tensor) -> torch.Tensor:
        return embed.embed(x_TD, rows_R, self.device)

    def sum_ranks(self, x_TD: torch.Tensor, added: bool = False) -> torch.Tensor:
        assert self._ranks is not None
        self._ranks.sum(x_TD)
        return x_TD

    def gather_columns(self, x_RN: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        assert self._ranks is not None
        y_RV = x_RN.new_empty(len(x_RN), sum(sizes))
        self._ranks.gather(x_RN, y_RV, sizes)
        return y_RV

    def send_on(self, x_TD: torch.Tensor) -> None:
        assert self._ranks is not None
        self._ranks.send(x_TD)

    def take_over(self, token_ids_T: torch.Tensor, num_columns: int) -> torch.Tensor:
        assert self._ranks is not None
        shape = (len(token_ids_T), num_columns)
        x_TD = torch.empty(shape, dtype=torch.float32, device=self._where)
        self._ranks.receive(x_TD)
        return x_TD

    def _decode_workspace(self, layout: KVLayout, num_heads: int) -> DecodeWorkspace:
        if (layout, num_heads) not in self._decode:
            most = max(
                DecodeConfig.default(layout, self.device, n).num_programs(layout, self.device)
                for n in range(1, self._max_sequences + 1)
            )
            self._decode[layout, num_heads] = DecodeWorkspace.allocate(
                layout, num_heads, self._max_sequences, most, self._where
            )
        return self._decode[layout, num_heads]

    def _config(self, weight: PackedWeight, num_rows: int, sums: bool) -> LinearConfig | None:
        """The chosen configuration; unmeasured, the likely best up to 64 rows."""
        rows = bucket(weight.scheme, num_rows)
        if rows is None:
            return None
        key = (weight.scheme, weight.num_rows, weight.num_columns, rows, sums)
        if key not in self._configs:
            name = choice_key(weight, rows)
            if name in self._choices:
                choice = self._choices[name]
                fields = choice["config"] if sums else choice.get("unsummed", choice["config"])
                self._configs[key] = None if fields is None else LinearConfig(**fields)
            elif rows <= 64:
                found = candidates(rows, weight, self._workspace, self.device)
                self._configs[key] = found[0]
            else:
                self._configs[key] = None
        return self._configs[key]


def _dense(weight: PackedWeight) -> torch.Tensor:
    table = weight.tensors["weight"]
    assert table.dtype != FP8, "the embedding stays in 16 bits"
    return table
