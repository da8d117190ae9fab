"""The plain-torch twin: right on every device, and what serves where no C++ compiler is at hand."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it

from nimlite import quant
from nimlite.kernels.base import Batch, Counts, Experts, Forward, KVLayout, Ranks, Scores, Step
from nimlite.quant.base import PackedWeight

ACTIVATIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
}


class TorchKernels:
    """`Kernels` in torch's own operations.

    Weights are unpacked at the first use, and kept: fp32 ones as they are; all others in bf16,
    which halves the memory and doubles the speed. Products have the precision of their weight.
    """

    def __init__(self, device: torch.device | str = "cpu", ranks: Ranks | None = None) -> None:
        self._device = torch.device(device)
        self._ranks = ranks
        self._unpacked: WeakKeyDictionary[PackedWeight, torch.Tensor] = WeakKeyDictionary()

    def allocate_kv(self, num_layers: int, layout: KVLayout) -> torch.Tensor:
        """Keys and values alike: [layers, 2, blocks, G, block_size, K]."""
        shape = (num_layers, 2, layout.num_blocks, layout.num_kv_heads)
        inner = (layout.block_size, layout.head_dim)
        return torch.zeros(*shape, *inner, dtype=layout.dtype, device=self._device)

    def capture(self, forward: Forward, batch: Batch, *, decodes: bool = True) -> Step:
        """Nothing is recorded: each step runs on the used part of the buffers."""
        return lambda counts: forward(used_part(batch, counts))

    def embed(
        self, weight: PackedWeight, token_ids_T: torch.Tensor, scale: float = 1.0, first: int = 0
    ) -> torch.Tensor:
        rows_T = token_ids_T.long() - first
        is_here_T = (rows_T >= 0) & (rows_T < weight.num_rows)
        x_TD = self._weight(weight)[rows_T.where(is_here_T, 0)].float() * scale
        return x_TD.where(is_here_T.unsqueeze(1), 0.0)

    def add_positions(
        self, x_TD: torch.Tensor, table_PD: torch.Tensor, positions_T: torch.Tensor
    ) -> None:
        x_TD += table_PD[positions_T.long()]

    def widen(self, x_TD: torch.Tensor) -> torch.Tensor:
        return x_TD

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

    def layer_norm(
        self,
        x_TD: torch.Tensor,
        weight_D: torch.Tensor,
        bias_D: torch.Tensor | None,
        eps: float,
        consumer: PackedWeight | None = None,
    ) -> torch.Tensor:
        return F.layer_norm(x_TD, (x_TD.shape[-1],), weight_D, bias_D, eps)

    def add_layer_norm(
        self,
        x_TD: torch.Tensor,
        residual_TD: torch.Tensor,
        weight_D: torch.Tensor,
        bias_D: torch.Tensor | None,
        eps: float,
        consumer: PackedWeight | None = None,
    ) -> torch.Tensor:
        return self.layer_norm(residual_TD.add_(x_TD), weight_D, bias_D, eps)

    def add(self, residual_TD: torch.Tensor, x_TD: torch.Tensor) -> None:
        residual_TD += x_TD

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

    def soft_cap(self, logits_RV: torch.Tensor, cap: float) -> None:
        logits_RV.div_(cap).tanh_().mul_(cap)

    def clip(self, qkv_TE: torch.Tensor, limit: float) -> None:
        qkv_TE.clamp_(-limit, limit)

    def norm_heads(
        self,
        qkv_TE: torch.Tensor,
        query_K: torch.Tensor,
        key_K: torch.Tensor,
        eps: float,
        layout: KVLayout,
    ) -> None:
        heads = qkv_TE.view(len(qkv_TE), -1, layout.head_dim)
        q_THK, k_TGK, _ = _parts(heads, layout)
        for part, weight_K in ((q_THK, query_K), (k_TGK, key_K)):
            part.copy_(F.rms_norm(part, weight_K.shape, weight_K, eps))

    def rope_and_cache(
        self,
        qkv_TE: torch.Tensor,
        cos_sin_PR: torch.Tensor | None,
        kv: torch.Tensor,
        batch: Batch,
        layout: KVLayout,
    ) -> None:
        heads = qkv_TE.view(len(qkv_TE), -1, layout.head_dim)
        if cos_sin_PR is not None:
            rotated = heads[:, : -layout.num_kv_heads, : cos_sin_PR.shape[1]]
            cos, sin = cos_sin_PR[batch.positions_T.long()].unsqueeze(1).chunk(2, dim=-1)
            first, second = rotated.chunk(2, dim=-1)
            turned = [first * cos - second * sin, second * cos + first * sin]
            rotated.copy_(torch.cat(turned, dim=-1))

        _, k_TGK, v_TGK = _parts(heads, layout)
        block = batch.slots_T.long() // layout.block_size
        offset = batch.slots_T.long() % layout.block_size
        kv[0, block, :, offset] = k_TGK.to(layout.dtype)
        kv[1, block, :, offset] = v_TGK.to(layout.dtype)

    def attention(
        self,
        qkv_TE: torch.Tensor,
        kv: torch.Tensor,
        batch: Batch,
        layout: KVLayout,
        num_heads: int,
        scores: Scores,
    ) -> torch.Tensor:
        q_THK = qkv_TE.view(len(qkv_TE), -1, layout.head_dim)[:, :num_heads]
        o_THK = torch.empty_like(q_THK, memory_format=torch.contiguous_format)
        starts = batch.query_starts_S1.tolist()
        for s, context in enumerate(batch.context_lens_S.tolist()):
            table = batch.block_tables_SB[s, : -(-context // layout.block_size)].long()
            k, v = kv[:, table].transpose(1, 2).flatten(2, 3)[:, :, :context].to(q_THK.dtype)
            queries = slice(starts[s], starts[s + 1])
            positions_Q1 = batch.positions_T[queries].unsqueeze(1)
            distance_QC = positions_Q1 - torch.arange(context, device=k.device)
            o_HQK = _attend(q_THK[queries].transpose(0, 1), k, v, distance_QC, scores)
            o_THK[queries] = o_HQK.transpose(0, 1)
        return o_THK.flatten(1)

    def gated_activation(
        self, gate_up_T2I: torch.Tensor, activation: str, consumer: PackedWeight | None = None
    ) -> torch.Tensor:
        gate, up = gate_up_T2I.chunk(2, dim=-1)
        return ACTIVATIONS[activation](gate) * up

    def activation(
        self, x_TI: torch.Tensor, activation: str, consumer: PackedWeight | None = None
    ) -> torch.Tensor:
        return ACTIVATIONS[activation](x_TI)

    def moe(self, x_TD: torch.Tensor, router_TE: torch.Tensor, experts: Experts) -> torch.Tensor:
        p_Tk, chosen_Tk = router_TE.float().softmax(dim=-1).topk(experts.per_token, dim=-1)
        if experts.normalize:
            p_Tk = p_Tk / p_Tk.sum(dim=-1, keepdim=True)
        up_EUD = self._weight(experts.up).reshape(experts.num_experts, -1, x_TD.shape[1])
        down_EDI = self._weight(experts.down).reshape(experts.num_experts, x_TD.shape[1], -1)
        y_TD = torch.zeros_like(x_TD)
        for expert in range(experts.num_experts):
            rows_R, place_R = (chosen_Tk == expert).nonzero(as_tuple=True)
            up_RU = F.linear(x_TD[rows_R].to(up_EUD.dtype), up_EUD[expert]).to(x_TD.dtype)
            z_RI = self.gated_activation(up_RU, experts.activation)
            z_RD = F.linear(z_RI.to(down_EDI.dtype), down_EDI[expert]).to(x_TD.dtype)
            y_TD.index_add_(0, rows_R, z_RD * p_Tk[rows_R, place_R, None].to(x_TD.dtype))
        return y_TD

    def add_gated(self, y_TD: torch.Tensor, x_TD: torch.Tensor, gate_T1: torch.Tensor) -> None:
        y_TD.addcmul_(x_TD, gate_T1.sigmoid())

    def take_rows(self, x_TD: torch.Tensor, rows_R: torch.Tensor) -> torch.Tensor:
        return x_TD[rows_R.long()]

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
        x_TD = torch.empty(len(token_ids_T), num_columns, device=self._device)
        self._ranks.receive(x_TD)
        return x_TD

    def _weight(self, weight: PackedWeight) -> torch.Tensor:
        if weight not in self._unpacked:
            dtype = torch.float32 if weight.scheme == "fp32" else torch.bfloat16
            self._unpacked[weight] = quant.unpack(weight).to(self._device, dtype)
        return self._unpacked[weight]


def _parts(
    heads_TxK: torch.Tensor, layout: KVLayout
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query, key and value heads."""
    num_kv_heads = layout.num_kv_heads
    num_heads = heads_TxK.shape[1] - 2 * num_kv_heads
    sizes = [num_heads, num_kv_heads, num_kv_heads]
    q_THK, k_TGK, v_TGK = torch.split(heads_TxK, sizes, dim=1)
    return q_THK, k_TGK, v_TGK


def _attend(
    q_HQK: torch.Tensor,
    k_GCK: torch.Tensor,
    v_GCK: torch.Tensor,
    distance_QC: torch.Tensor,
    scores: Scores,
) -> torch.Tensor:
    """o_HQK of one sequence. `distance_QC`: how far before the query the key stands."""
    seen_QC = distance_QC >= 0 if scores.causal else torch.ones_like(distance_QC, dtype=torch.bool)
    if scores.window:
        seen_QC &= distance_QC < scores.window
    mask = seen_QC
    if scores.slopes_H is not None:
        mask = scores.slopes_H[:, None, None] * -distance_QC
        mask = mask.masked_fill(~seen_QC, -torch.inf)
    if scores.bias_HP is not None:
        reach = scores.bias_HP.shape[1] // 2
        mask = scores.bias_HP[:, distance_QC.clamp(-reach, reach) + reach]
        mask = mask.masked_fill(~seen_QC, -torch.inf)
    if not scores.soft_cap:
        return F.scaled_dot_product_attention(
            q_HQK[None],
            k_GCK[None],
            v_GCK[None],
            attn_mask=mask,
            scale=scores.scale,
            enable_gqa=True,
        )[0]
    assert scores.slopes_H is None, "no model caps scores that lose with distance"
    group = len(q_HQK) // len(k_GCK)
    k_HCK, v_HCK = k_GCK.repeat_interleave(group, 0), v_GCK.repeat_interleave(group, 0)
    capped_HQC = torch.tanh(q_HQK @ k_HCK.mT * (scores.scale / scores.soft_cap)) * scores.soft_cap
    return capped_HQC.masked_fill(~seen_QC, -torch.inf).softmax(-1) @ v_HCK


def used_part(batch: Batch, counts: Counts) -> Batch:
    """Views of the static buffers, cut to the counts."""
    tokens, sequences = counts.num_tokens, counts.num_sequences
    lens_S, tables_SB = batch.cross_lens_S, batch.cross_tables_SB
    return replace(
        batch,
        cross_lens_S=None if lens_S is None else lens_S[:sequences],
        cross_tables_SB=None if tables_SB is None else tables_SB[:sequences],
        token_ids_T=batch.token_ids_T[:tokens],
        positions_T=batch.positions_T[:tokens],
        slots_T=batch.slots_T[:tokens],
        query_starts_S1=batch.query_starts_S1[: sequences + 1],
        context_lens_S=batch.context_lens_S[:sequences],
        block_tables_SB=batch.block_tables_SB[:sequences],
        logit_rows_R=batch.logit_rows_R[: counts.num_rows],
    )
