"""The model in plain torch and fp32, straight from the checkpoint's tensors: what an engine is
tested against.

It shares neither packing, fusing, paging nor kernels with the engine, and holds one layer's weights
at a time, on the device that it is given.

T tokens of all prompts   D hidden size   H, G query and key/value heads   K head dimension   V
vocabulary
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch.nn.functional import gelu, linear, scaled_dot_product_attention, silu

from nimlite.build.checkpoint import Checkpoint
from nimlite.build.convert import read_tensor
from nimlite.build.staging import CPU, Staging
from nimlite.layers.rotary import cos_sin_table
from nimlite.models.registry import weight_sources
from nimlite.models.spec import ModelSpec

Observer = Callable[[str, torch.Tensor, torch.Tensor], None]
"""Called with the name of a linear as the engine fuses it, its input x_TC, and its weight_NC."""


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
        self._sources = weight_sources(spec)
        self._staging = Staging(device)
        self._observer = observer

    @torch.inference_mode()
    def __call__(self, prompts: Sequence[Sequence[int]]) -> Iterator[torch.Tensor]:
        lengths = [len(prompt) for prompt in prompts]
        with self._staging.on_device():
            x_TD, head_VD = self._hidden(prompts, lengths)
        for part_TD in torch.split(x_TD, lengths):
            with self._staging.on_device():
                logits_TV = linear(part_TD, head_VD)
            self._staging.wait()
            yield logits_TV

    @torch.inference_mode()
    def run(self, prompts: Sequence[Sequence[int]]) -> None:
        """Only for its observer."""
        with self._staging.on_device():
            self._hidden(prompts, [len(prompt) for prompt in prompts])
        self._staging.wait()

    def _hidden(
        self, prompts: Sequence[Sequence[int]], lengths: list[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the head is applied to, and the head."""
        device = self._staging.device
        token_ids_T = torch.tensor([token for prompt in prompts for token in prompt], device=device)
        cos_sin_TK = torch.cat(
            [cos_sin_table(self._spec.rope, self._spec.head_dim, length) for length in lengths]
        ).to(device)
        (embedding_VD,) = self._weights("embedding")
        x_TD = embedding_VD[token_ids_T]
        for i in range(self._spec.num_layers):
            x_TD = x_TD + self._attention(
                i, self._norm(f"layers.{i}.input_norm", x_TD), cos_sin_TK, lengths
            )
            x_TD = x_TD + self._mlp(i, self._norm(f"layers.{i}.post_norm", x_TD))
        x_TD = self._norm("final_norm", x_TD)
        head_VD = embedding_VD if self._spec.tie_embeddings else self._weights("head")[0]
        return x_TD, head_VD

    def _weights(self, name: str) -> list[torch.Tensor]:
        names = self._sources[name].names
        return [read_tensor(self._checkpoint, self._spec, n, self._staging).float() for n in names]

    def _linears(self, name: str, x_TD: torch.Tensor) -> list[torch.Tensor]:
        """x through each of the parts that the engine fuses into `name`."""
        weights = self._weights(name)
        if self._observer is not None:
            self._observer(name, x_TD, torch.cat(weights))
        has_bias = f"{name}.bias" in self._sources
        biases = self._weights(f"{name}.bias") if has_bias else [None] * len(weights)
        return [linear(x_TD, w, b) for w, b in zip(weights, biases, strict=True)]

    def _norm(self, name: str, x_TD: torch.Tensor) -> torch.Tensor:
        variance_T1 = x_TD.square().mean(dim=-1, keepdim=True)
        return x_TD * torch.rsqrt(variance_T1 + self._spec.norm_eps) * self._weights(name)[0]

    def _attention(
        self, i: int, x_TD: torch.Tensor, cos_sin_TK: torch.Tensor, lengths: list[int]
    ) -> torch.Tensor:
        q_HTK, k_GTK, v_GTK = (
            y.view(len(x_TD), -1, self._spec.head_dim).transpose(0, 1)
            for y in self._linears(f"layers.{i}.qkv", x_TD)
        )
        rotated = (_rotate(q_HTK, cos_sin_TK), _rotate(k_GTK, cos_sin_TK), v_GTK)
        prompts = zip(*(torch.split(t, lengths, dim=1) for t in rotated), strict=True)
        o_HTK = torch.cat(
            [
                scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)[0]
                for q, k, v in ((q[None], k[None], v[None]) for q, k, v in prompts)
            ],
            dim=1,
        )
        return self._linears(f"layers.{i}.output", o_HTK.transpose(0, 1).flatten(1))[0]

    def _mlp(self, i: int, x_TD: torch.Tensor) -> torch.Tensor:
        gate_TI, up_TI = self._linears(f"layers.{i}.gate_up", x_TD)
        match self._spec.activation:
            case "silu":
                gate_TI = silu(gate_TI)
            case "gelu":
                gate_TI = gelu(gate_TI)
            case "gelu_tanh":
                gate_TI = gelu(gate_TI, approximate="tanh")
        return self._linears(f"layers.{i}.down", gate_TI * up_TI)[0]


def _rotate(x_HTK: torch.Tensor, cos_sin_TK: torch.Tensor) -> torch.Tensor:
    cos, sin = cos_sin_TK.chunk(2, dim=1)
    first, second = x_HTK.chunk(2, dim=2)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=2)
