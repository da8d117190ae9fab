"""The plain-torch twin: right on every device, and what serves where no C++ compiler is at hand."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it

from nimlite import quant
from nimlite.kernels.base import Batch, Counts, Forward, KVLayout, Step
from nimlite.quant.base import PackedWeight

ACTIVATIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


class TorchKernels:
    """`Kernels` in torch's own operations.

    Weights are unpacked at the first use, and kept: fp32 ones as they are; all others in bf16,
    which halves the memory and doubles the speed. Products have the precision of their weight.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        self._unpacked: WeakKeyDictionary[PackedWeight, torch.Tensor] = WeakKeyDictionary()

    def allocate_kv(self, num_layers: int, layout: KVLayout) -> torch.Tensor:
        """Keys and values alike: [layers, 2, blocks, G, block_size, K]."""
        shape = (num_layers, 2, layout.num_blocks, layout.num_kv_heads)
        inner = (layout.block_size, layout.head_dim)
        return torch.zeros(*shape, *inner, dtype=layout.dtype, device=self._device)

    def capture(self, forward: Forward, batch: Batch) -> Step:
        """Nothing is recorded: each step runs on the used part of the buffers."""
        return lambda counts: forward(used_part(batch, counts))

    def embed(self, weight: PackedWeight, token_ids_T: torch.Tensor) -> torch.Tensor:
        return self._weight(weight)[token_ids_T.long()].float()

    def rms_norm(
        self,
        x_TD: torch.Tensor,
        weight_D: torch.Tensor,
        eps: float,
        consumer: PackedWeight | None = None,
    ) -> torch.Tensor:
        return F.rms_norm(x_TD, (x_TD.shape[-1],), weight_D, eps)

    def add_rms_norm(
        self,
        x_TD: torch.Tensor,
        residual_TD: torch.Tensor,
        weight_D: torch.Tensor,
        eps: float,
        consumer: PackedWeight | None = None,
    ) -> torch.Tensor:
        return self.rms_norm(residual_TD.add_(x_TD), weight_D, eps)

    def linear(
        self,
        x_TC: torch.Tensor,
        weight: PackedWeight,
        bias_N: torch.Tensor | None,
        added: bool = False,
    ) -> torch.Tensor:
        weight_NC = self._weight(weight)
        y_TN = F.linear(x_TC.to(weight_NC.dtype), weight_NC).to(x_TC.dtype)
        return y_TN if bias_N is None else y_TN + bias_N

    def head(
        self, x_RD: torch.Tensor, weight: PackedWeight, bias_N: torch.Tensor | None
    ) -> torch.Tensor:
        return self.linear(x_RD, weight, bias_N)

    def rope_and_cache(
        self,
        qkv_TE: torch.Tensor,
        cos_sin_PK: torch.Tensor,
        kv: torch.Tensor,
        batch: Batch,
        layout: KVLayout,
    ) -> None:
        heads = qkv_TE.view(len(qkv_TE), -1, layout.head_dim)
        rotated = heads[:, : -layout.num_kv_heads]
        cos, sin = cos_sin_PK[batch.positions_T.long()].unsqueeze(1).chunk(2, dim=-1)
        first, second = rotated.chunk(2, dim=-1)
        rotated.copy_(torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1))

        block = batch.slots_T.long() // layout.block_size
        offset = batch.slots_T.long() % layout.block_size
        num_heads = heads.shape[1] - 2 * layout.num_kv_heads
        kv[0, block, :, offset] = heads[:, num_heads : -layout.num_kv_heads].to(layout.dtype)
        kv[1, block, :, offset] = heads[:, -layout.num_kv_heads :].to(layout.dtype)

    def attention(
        self,
        qkv_TE: torch.Tensor,
        kv: torch.Tensor,
        batch: Batch,
        layout: KVLayout,
        num_heads: int,
        scale: float,
    ) -> torch.Tensor:
        q_THK = qkv_TE.view(len(qkv_TE), -1, layout.head_dim)[:, :num_heads]
        o_THK = torch.empty_like(q_THK, memory_format=torch.contiguous_format)
        starts = batch.query_starts_S1.tolist()
        for s, context in enumerate(batch.context_lens_S.tolist()):
            table = batch.block_tables_SB[s, : -(-context // layout.block_size)].long()
            k, v = kv[:, table].transpose(1, 2).flatten(2, 3)[:, :, :context].to(q_THK.dtype)
            queries = slice(starts[s], starts[s + 1])
            positions = batch.positions_T[queries].unsqueeze(1)
            o = F.scaled_dot_product_attention(
                q_THK[queries].transpose(0, 1)[None],
                k[None],
                v[None],
                attn_mask=torch.arange(context, device=k.device) <= positions,
                scale=scale,
                enable_gqa=True,
            )
            o_THK[queries] = o[0].transpose(0, 1)
        return o_THK.flatten(1)

    def gated_activation(
        self, gate_up_T2I: torch.Tensor, activation: str, consumer: PackedWeight | None = None
    ) -> torch.Tensor:
        gate, up = gate_up_T2I.chunk(2, dim=-1)
        return ACTIVATIONS[activation](gate) * up

    def take_rows(self, x_TD: torch.Tensor, rows_R: torch.Tensor) -> torch.Tensor:
        return x_TD[rows_R.long()]

    def _weight(self, weight: PackedWeight) -> torch.Tensor:
        if weight not in self._unpacked:
            dtype = torch.float32 if weight.scheme == "fp32" else torch.bfloat16
            self._unpacked[weight] = quant.unpack(weight).to(self._device, dtype)
        return self._unpacked[weight]


def used_part(batch: Batch, counts: Counts) -> Batch:
    """Views of the static buffers, cut to the counts."""
    tokens, sequences = counts.num_tokens, counts.num_sequences
    return replace(
        batch,
        token_ids_T=batch.token_ids_T[:tokens],
        positions_T=batch.positions_T[:tokens],
        slots_T=batch.slots_T[:tokens],
        query_starts_S1=batch.query_starts_S1[: sequences + 1],
        context_lens_S=batch.context_lens_S[:sequences],
        block_tables_SB=batch.block_tables_SB[:sequences],
        logit_rows_R=batch.logit_rows_R[: counts.num_rows],
    )
