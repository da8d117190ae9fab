"""Plain-torch twins of the kernels, in fp32, on this package's layouts of pool and weights."""

import torch

from nimlite.kernels.base import Batch, KVLayout
from nimlite.kernels.triton.scaled_rows import LARGEST, ScaledRows, UnsummedRows


def dequantize(rows: ScaledRows) -> torch.Tensor:
    """The fp32 rows that rounded rows stand for."""
    return rows.values_TC.float() * rows.scale_T1


def finish(rows: UnsummedRows) -> torch.Tensor:
    """The fp32 product y_TN."""
    y_TN = rows.parts_PTN.float().sum(0)
    for scale in (rows.row_scale_T1, rows.column_scale_N):
        y_TN = y_TN if scale is None else y_TN * scale
    return y_TN


def quantize_rows(x_TC: torch.Tensor, dtype: torch.dtype) -> ScaledRows:
    """Each row in fp8 e4m3 with the scale absmax / 448, or in int8 with absmax / 127."""
    x_TC = x_TC.float()
    scale_T1 = x_TC.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / LARGEST[dtype]
    values_TC = x_TC / scale_T1
    return ScaledRows(
        (values_TC if dtype.is_floating_point else values_TC.round()).to(dtype), scale_T1
    )


def rms_norm(x_TD: torch.Tensor, weight_D: torch.Tensor, eps: float) -> torch.Tensor:
    """In fp32."""
    x_TD = x_TD.float()
    return x_TD * torch.rsqrt(x_TD.square().mean(-1, keepdim=True) + eps) * weight_D.float()


def layer_norm(
    x_TD: torch.Tensor, weight_D: torch.Tensor, bias_D: torch.Tensor, eps: float
) -> torch.Tensor:
    """In fp32."""
    x_TD = x_TD.float() - x_TD.float().mean(-1, keepdim=True)
    return rms_norm(x_TD, weight_D, eps) + bias_D.float()


def rope(x_THK: torch.Tensor, positions_T: torch.Tensor, cos_sin_PK: torch.Tensor) -> torch.Tensor:
    """The first dimensions of each head turned, as many as `cos_sin_PK` is wide; in fp32."""
    rotary = cos_sin_PK.shape[1]
    x_THK = x_THK.float()
    cos, sin = cos_sin_PK[positions_T.long()].float().unsqueeze(1).chunk(2, dim=-1)
    first, second = x_THK[..., :rotary].chunk(2, dim=-1)
    turned = (first * cos - second * sin, second * cos + first * sin, x_THK[..., rotary:])
    return torch.cat(turned, dim=-1)


def write_kv(
    kv: torch.Tensor,
    key_TGK: torch.Tensor,
    value_TGK: torch.Tensor,
    slots_T: torch.Tensor,
    layout: KVLayout,
) -> None:
    """Write keys and values to kv[2, blocks, G, block_size, K]; slots of -1 are left out."""
    kept = slots_T >= 0
    slots = slots_T[kept].long()
    block, offset = slots // layout.block_size, slots % layout.block_size
    kv[0][block, :, offset] = key_TGK[kept].to(layout.dtype)
    kv[1][block, :, offset] = value_TGK[kept].to(layout.dtype)


def attention(
    qkv_TE: torch.Tensor,
    kv: torch.Tensor,
    batch: Batch,
    layout: KVLayout,
    num_heads: int,
    scale: float,
    *,
    kv_scales: tuple[float, float] = (1.0, 1.0),
    window: int = 0,
    soft_cap: float = 0.0,
    slopes_H: torch.Tensor | None = None,
    bias_HP: torch.Tensor | None = None,
    causal: bool = True,
) -> torch.Tensor:
    """o_T(H*K) in fp32: the softmax written out. Rows of sequences without a context are zero."""
    group = num_heads // layout.num_kv_heads
    q_THK = qkv_TE[:, : num_heads * layout.head_dim].float().unflatten(-1, (num_heads, -1))
    o_THK = torch.zeros_like(q_THK)
    starts = batch.query_starts_S1.tolist()
    for s, context in enumerate(batch.context_lens_S.tolist()):
        queries = slice(starts[s], starts[s + 1])
        table = batch.block_tables_SB[s, : -(-context // layout.block_size)].long()
        k, v = (
            kv[i][table].transpose(0, 1).flatten(1, 2)[:, :context].float() * kv_scales[i]
            for i in range(2)
        )
        k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
        score = torch.einsum("qhk,hck->hqc", q_THK[queries], k) * scale
        if soft_cap:
            score = soft_cap * torch.tanh(score / soft_cap)
        last = torch.arange(context - score.shape[1], context, device=kv.device).unsqueeze(1)
        token = torch.arange(context, device=kv.device)
        if slopes_H is not None:
            score = score - slopes_H[:, None, None] * (last - token)
        if bias_HP is not None:
            reach = bias_HP.shape[1] // 2
            score = score + bias_HP[:, (last - token).clamp(-reach, reach) + reach]
        hidden = (token > last if causal else token < 0) | (
            token <= last - window if window else token < 0
        )
        if context:
            weights = score.masked_fill(hidden, -torch.inf).softmax(-1)
            o_THK[queries] = torch.einsum("hqc,hck->qhk", weights, v)
    return o_THK.flatten(1)


def sample(
    logits_V: torch.Tensor,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    uniform: float,
) -> int:
    """One token of one row, as `sample.sample` chooses it, by sorting; in fp64."""
    logits_V = logits_V.double()
    if temperature <= 0:
        return int(logits_V.argmax())
    weights_V = ((logits_V - logits_V.max()) / temperature).exp()
    kept_V = weights_V >= min_p
    if 0 < top_k < len(weights_V):
        kept_V &= weights_V >= weights_V.sort(descending=True).values[top_k - 1]
    if top_p < 1:
        sorted_V = weights_V.where(kept_V, 0.0).sort(descending=True).values
        limit = sorted_V[(sorted_V.cumsum(0) < top_p * sorted_V.sum()).sum()]
        kept_V &= weights_V >= limit
    cumulated_V = weights_V.where(kept_V, 0.0).cumsum(0)
    return int((cumulated_V <= uniform * cumulated_V[-1]).sum())


def adjust(
    logits_V: torch.Tensor,
    outputs: list[int],
    prompt: list[int],
    penalties: tuple[float, float, float],
    biases: dict[int, float],
) -> torch.Tensor:
    """One row after repetition, presence and frequency penalties and biases; in fp32."""
    logits_V = logits_V.float().clone()
    repetition, presence, frequency = penalties
    for token in {*outputs, *prompt}:
        logits_V[token] *= 1 / repetition if logits_V[token] > 0 else repetition
    for token in set(outputs):
        logits_V[token] -= presence + frequency * outputs.count(token)
    for token, bias in biases.items():
        logits_V[token] += bias
    return logits_V


def forbid(logits_V: torch.Tensor, bits_W: torch.Tensor) -> torch.Tensor:
    """-inf where a token's bit is not set."""
    tokens_V = torch.arange(len(logits_V), device=logits_V.device)
    is_allowed_V = bits_W[tokens_V // 32] >> (tokens_V % 32) & 1
    return logits_V.masked_fill(is_allowed_V == 0, -torch.inf)
