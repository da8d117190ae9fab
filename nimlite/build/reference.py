"""The model in plain torch and fp32, straight from the checkpoint's tensors: what an engine is
tested against.

It shares neither packing, fusing, paging nor kernels with the engine, and holds one layer's weights
at a time, on the device that it is given.

T tokens of all prompts   D hidden size   H, G query and key/value heads   K head dimension
R the part of it that turns   V vocabulary
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import gelu, layer_norm, linear, relu, silu

from nimlite.build.checkpoint import Checkpoint
from nimlite.build.convert import read_parts
from nimlite.build.parts import sources_of
from nimlite.build.staging import CPU, Staging
from nimlite.layers.rotary import layer_tables
from nimlite.models.spec import (
    ENCODER,
    NUM_SOURCE_TOKENS,
    ModelSpec,
    MoeSpec,
    RelativeBias,
)

Observer = Callable[[str, torch.Tensor, torch.Tensor], torch.Tensor | None]
"""Called with the name of a linear as the engine fuses it, its input x_TC, and its weight_NC. What
follows is computed with the product y_TN that it gives back, biases apart; None: with the linear's
own."""


class Reference:
    """Called with prompts, gives each one's logits (a `selftest.Logits`)."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        spec: ModelSpec,
        device: torch.device = CPU,
        observer: Observer | None = None,
    ) -> None:
        self._checkpoint = checkpoint
        self._spec = spec
        self._sources = sources_of(checkpoint, spec)
        self._staging = Staging(device)
        self._observer = observer

    @torch.inference_mode()
    def __call__(self, prompts: Sequence[Sequence[int]]) -> Iterator[torch.Tensor]:
        lengths = [len(prompt) for prompt in prompts]
        with self._staging.on_device():
            sources = [prompt[:NUM_SOURCE_TOKENS] for prompt in prompts]
            x_TD, head_VD = self._hidden(prompts, sources)
        for part_TD in torch.split(x_TD, lengths):
            with self._staging.on_device():
                logits_TV = self._logits(part_TD, head_VD)
            self._staging.wait()
            yield logits_TV

    def _logits(self, x_TD: torch.Tensor, head_VD: torch.Tensor) -> torch.Tensor:
        bias_V = self._whole("head.bias").view(-1) if self._spec.head_bias else None
        logits_TV, cap = linear(x_TD, head_VD, bias_V), self._spec.logit_soft_cap
        return cap * torch.tanh(logits_TV / cap) if cap else logits_TV

    @torch.inference_mode()
    def run(self, prompts: Sequence[Sequence[int]]) -> None:
        """Only for its observer."""
        with self._staging.on_device():
            self._hidden(prompts, prompts)
        self._staging.wait()

    def _hidden(
        self, prompts: Sequence[Sequence[int]], sources: Sequence[Sequence[int]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the head is applied to, and the head. `sources`: what an encoder reads for each
        prompt, where there is one."""
        spec, read = self._spec, None
        if spec.encoder is not None:
            y_TD = self._stack(_Stack(spec.encoder, ENCODER, sources, None))
            read = torch.split(y_TD, [len(source) for source in sources])
        x_TD = self._stack(_Stack(spec, "", prompts, read))
        return x_TD, self._whole("embedding" if spec.tie_embeddings else "head")

    def _stack(self, stack: "_Stack") -> torch.Tensor:
        """From tokens to what comes out of the last norm."""
        spec, prompts, device = stack.spec, stack.texts, self._staging.device
        token_ids_T = torch.tensor([token for prompt in prompts for token in prompt], device=device)
        positions_T = torch.cat([torch.arange(len(prompt), device=device) for prompt in prompts])
        x_TD = self._whole("embedding")[token_ids_T] * spec.embedding_scale
        if spec.learned_positions:
            x_TD = x_TD + self._whole(f"{stack.prefix}positions")[positions_T]
        if spec.token_types:
            x_TD = x_TD + self._whole(f"{stack.prefix}token_types")[0]
        if spec.embedding_norm:
            x_TD = self._norm(f"{stack.prefix}embedding_norm", x_TD)
        for i, cos_sin_PR in enumerate(layer_tables(spec, None, device)):
            cos_sin_TR = None if cos_sin_PR is None else cos_sin_PR[positions_T]
            layer = _Layer(stack, i, f"{stack.prefix}layers.{i}", cos_sin_TR)
            x_TD = self._block(layer, x_TD)
        return x_TD if spec.block == "post" else self._norm(f"{stack.prefix}final_norm", x_TD)

    def _block(self, layer: "_Layer", x_TD: torch.Tensor) -> torch.Tensor:
        match layer.stack.spec.block:
            case "sequential":
                x_TD = x_TD + self._attention(layer, self._norm(f"{layer.name}.input_norm", x_TD))
                if layer.stack.read is not None:
                    y_TD = self._norm(f"{layer.name}.cross_norm", x_TD)
                    x_TD = x_TD + self._cross(layer, layer.stack.read, y_TD)
                return x_TD + self._mlp(layer, self._norm(f"{layer.name}.post_norm", x_TD))
            case "sandwich":
                y_TD = self._attention(layer, self._norm(f"{layer.name}.input_norm", x_TD))
                x_TD = x_TD + self._norm(f"{layer.name}.attention_out_norm", y_TD)
                y_TD = self._mlp(layer, self._norm(f"{layer.name}.post_norm", x_TD))
                return x_TD + self._norm(f"{layer.name}.mlp_out_norm", y_TD)
            case "post":
                x_TD = x_TD + self._attention(layer, x_TD)
                x_TD = self._norm(f"{layer.name}.attention_out_norm", x_TD)
                if layer.stack.read is not None:
                    x_TD = x_TD + self._cross(layer, layer.stack.read, x_TD)
                    x_TD = self._norm(f"{layer.name}.cross_out_norm", x_TD)
                return self._norm(f"{layer.name}.mlp_out_norm", x_TD + self._mlp(layer, x_TD))
            case "parallel":
                y_TD = self._attention(layer, self._norm(f"{layer.name}.input_norm", x_TD))
                z_TD = self._mlp(layer, self._norm(f"{layer.name}.post_norm", x_TD))
                return x_TD + y_TD + z_TD
            case "parallel_shared":
                y_TD = self._norm(f"{layer.name}.input_norm", x_TD)
                return x_TD + self._attention(layer, y_TD) + self._mlp(layer, y_TD)

    def _parts(self, name: str) -> list[torch.Tensor]:
        """Of an engine tensor, in fp32."""
        parts = read_parts(self._checkpoint, self._sources[name], self._staging)
        return [part.float() for part in parts]

    def _whole(self, name: str) -> torch.Tensor:
        return torch.cat(self._parts(name))

    def _linears(self, name: str, x_TD: torch.Tensor) -> list[torch.Tensor]:
        """x through each of the parts that the engine fuses into `name`."""
        weights = self._parts(name)
        has_bias = f"{name}.bias" in self._sources
        biases = self._parts(f"{name}.bias") if has_bias else [None] * len(weights)
        if self._observer is not None:
            y_TN = self._observer(name, x_TD, torch.cat(weights))
            if y_TN is not None:
                products = torch.split(y_TN, [len(weight) for weight in weights], dim=1)
                pairs = zip(products, biases, strict=True)
                return [y if b is None else y + b for y, b in pairs]
        return [linear(x_TD, w, b) for w, b in zip(weights, biases, strict=True)]

    def _norm(self, name: str, x_TD: torch.Tensor) -> torch.Tensor:
        """An encoder's norms are of the decoder's kind."""
        weight_D = self._whole(name)
        if self._spec.norm == "rms":
            return _rms_norm(x_TD, weight_D, self._spec.norm_eps)
        bias_D = self._whole(f"{name}.bias") if self._spec.norm_bias else None
        return layer_norm(x_TD, weight_D.shape, weight_D, bias_D, self._spec.norm_eps)

    def _attention(self, layer: "_Layer", x_TD: torch.Tensor) -> torch.Tensor:
        spec = layer.stack.spec
        heads = [
            y.clamp(-spec.clip_qkv, spec.clip_qkv) if spec.clip_qkv else y
            for y in self._linears(f"{layer.name}.qkv", x_TD)
        ]
        q_HTK, k_GTK, v_GTK = (y.view(len(x_TD), -1, spec.head_dim).transpose(0, 1) for y in heads)
        if spec.qk_norm:
            q_HTK = _rms_norm(q_HTK, self._whole(f"{layer.name}.q_norm"), spec.norm_eps)
            k_GTK = _rms_norm(k_GTK, self._whole(f"{layer.name}.k_norm"), spec.norm_eps)
        if layer.cos_sin_TR is not None:
            q_HTK, k_GTK = (_rotate(t, layer.cos_sin_TR) for t in (q_HTK, k_GTK))
        group = spec.num_heads // spec.num_kv_heads
        k_HTK, v_HTK = (t.repeat_interleave(group, dim=0) for t in (k_GTK, v_GTK))
        prompts = zip(
            *(torch.split(t, layer.stack.lengths, dim=1) for t in (q_HTK, k_HTK, v_HTK)),
            strict=True,
        )
        o_HTK = torch.cat([self._attend(layer, *prompt) for prompt in prompts], dim=1)
        return self._linears(f"{layer.name}.output", o_HTK.transpose(0, 1).flatten(1))[0]

    def _cross(
        self, layer: "_Layer", read: Sequence[torch.Tensor], x_TD: torch.Tensor
    ) -> torch.Tensor:
        """To what the encoder has read for each prompt."""
        spec = layer.stack.spec
        (q_TQ,) = self._linears(f"{layer.name}.cross_q", x_TD)
        found = []
        parts = torch.split(q_TQ, layer.stack.lengths)
        sources = self._linears(f"{layer.name}.cross_kv", torch.cat(list(read)))
        ks, vs = (torch.split(t, [len(source) for source in read]) for t in sources)
        for of_one in zip(parts, ks, vs, strict=True):
            heads = (t.view(len(t), -1, spec.head_dim).transpose(0, 1) for t in of_one)
            q_HTK, k_GTK, v_GTK = heads
            group = spec.num_heads // spec.num_kv_heads
            k_HTK, v_HTK = (t.repeat_interleave(group, dim=0) for t in (k_GTK, v_GTK))
            o_HTK = (q_HTK @ k_HTK.mT * spec.scale).softmax(-1) @ v_HTK
            found.append(o_HTK.transpose(0, 1).flatten(1))
        return self._linears(f"{layer.name}.cross_output", torch.cat(found))[0]

    def _attend(
        self, layer: "_Layer", q_HTK: torch.Tensor, k_HTK: torch.Tensor, v_HTK: torch.Tensor
    ) -> torch.Tensor:
        """o_HTK of one prompt."""
        spec, cap = layer.stack.spec, layer.stack.spec.attention_soft_cap
        scores_HTT = q_HTK @ k_HTK.mT * spec.scale
        if cap:
            scores_HTT = cap * torch.tanh(scores_HTT / cap)
        positions_T = torch.arange(q_HTK.shape[1], device=q_HTK.device)
        distance_TT = positions_T[:, None] - positions_T
        if spec.alibi_slopes:
            slopes_H = torch.tensor(spec.alibi_slopes, device=q_HTK.device)
            scores_HTT = scores_HTT - slopes_H[:, None, None] * distance_TT
        if spec.relative_bias is not None:
            bucket_TT = _buckets(spec.relative_bias, -distance_TT, spec.causal)
            scores_HTT = (
                scores_HTT + self._whole(f"{layer.stack.prefix}relative_bias")[:, bucket_TT]
            )
        unseen_TT = (distance_TT < 0) & spec.causal
        if window := spec.window(layer.index):
            unseen_TT = unseen_TT | (distance_TT >= window)
        return scores_HTT.masked_fill(unseen_TT, -torch.inf).softmax(-1) @ v_HTK

    def _mlp(self, layer: "_Layer", x_TD: torch.Tensor) -> torch.Tensor:
        if self._spec.moe is not None and self._spec.is_sparse(layer.index):
            return self._experts(layer, self._spec.moe, x_TD)
        return self._dense_mlp(layer, x_TD)

    def _experts(self, layer: "_Layer", moe: MoeSpec, x_TD: torch.Tensor) -> torch.Tensor:
        p_TE = linear(x_TD, self._whole(f"{layer.name}.router")).softmax(dim=-1)
        p_Tk, chosen_Tk = p_TE.topk(moe.experts_per_token, dim=-1)
        if moe.normalize:
            p_Tk = p_Tk / p_Tk.sum(dim=-1, keepdim=True)
        up = self._whole(f"{layer.name}.experts_up").chunk(moe.num_experts)
        down = self._whole(f"{layer.name}.experts_down").chunk(moe.num_experts)
        activation = _ACTIVATIONS[self._spec.activation]
        y_TD = torch.zeros_like(x_TD)
        for expert in range(moe.num_experts):
            rows_R, place_R = (chosen_Tk == expert).nonzero(as_tuple=True)
            gate_RI, up_RI = linear(x_TD[rows_R], up[expert]).chunk(2, dim=-1)
            z_RD = linear(activation(gate_RI) * up_RI, down[expert])
            y_TD.index_add_(0, rows_R, z_RD * p_Tk[rows_R, place_R, None])
        if moe.shared_size:
            gate_T1 = linear(x_TD, self._whole(f"{layer.name}.shared_gate")).sigmoid()
            y_TD = y_TD + gate_T1 * self._dense_mlp(layer, x_TD)
        return y_TD

    def _dense_mlp(self, layer: "_Layer", x_TD: torch.Tensor) -> torch.Tensor:
        spec = layer.stack.spec
        name = f"{layer.name}.{spec.up_name}"
        y_TI, *up_TI = self._linears(name, x_TD)
        y_TI = _ACTIVATIONS[spec.activation](y_TI)
        if up_TI:
            y_TI = y_TI * up_TI[0]
        return self._linears(f"{layer.name}.down", y_TI)[0]


@dataclass(frozen=True, slots=True)
class _Stack:
    """A decoder or an encoder, and what it reads."""

    spec: ModelSpec
    prefix: str
    """Of its tensors' names."""
    texts: Sequence[Sequence[int]]
    read: Sequence[torch.Tensor] | None
    """What the encoder has made of the source of each text."""

    @property
    def lengths(self) -> list[int]:
        return [len(text) for text in self.texts]


@dataclass(frozen=True, slots=True)
class _Layer:
    """Where the computation stands."""

    stack: _Stack
    index: int
    name: str
    cos_sin_TR: torch.Tensor | None


def _buckets(bias: RelativeBias, ahead_TT: torch.Tensor, causal: bool) -> torch.Tensor:
    """T5's bucket for keys that stand `ahead_TT` tokens behind the query."""
    half = bias.num_buckets if causal else bias.num_buckets // 2
    far_TT = (-ahead_TT).clamp(min=0) if causal else ahead_TT.abs()
    side_TT = torch.zeros_like(far_TT) if causal else half * (ahead_TT > 0).long()
    near = half // 2
    log_TT = torch.log(far_TT.clamp(min=1).float() / near) / math.log(bias.max_distance / near)
    log_TT = near + (log_TT * (half - near)).long()
    return side_TT + torch.where(far_TT < near, far_TT, log_TT.clamp(max=half - 1))


_ACTIVATIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": silu,
    "gelu": gelu,
    "gelu_tanh": lambda x: gelu(x, approximate="tanh"),
    "relu": relu,
    "relu2": lambda x: relu(x).square(),
}


def _rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps) * weight


def _rotate(x_HTK: torch.Tensor, cos_sin_TR: torch.Tensor) -> torch.Tensor:
    width = cos_sin_TR.shape[1]
    cos, sin = cos_sin_TR.chunk(2, dim=1)
    first, second = x_HTK[..., :width].chunk(2, dim=2)
    turned = [first * cos - second * sin, second * cos + first * sin]
    return torch.cat([*turned, x_HTK[..., width:]], dim=2)
