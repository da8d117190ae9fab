"""What a runner asks of a model, whatever computes it."""

from typing import Protocol

import torch

from nimlite.kernels.base import Batch, Kernels, KVLayout
from nimlite.models.spec import ModelSpec


class Model(Protocol):
    """A decoder with its weights."""

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def layout(self) -> KVLayout: ...

    @property
    def num_layers(self) -> int:
        """Layers that are computed here, and whose keys and values are kept here."""

    def __call__(self, batch: Batch, kv: torch.Tensor, kernels: Kernels) -> torch.Tensor:
        """Logits_RV of the batch's `logit_rows`, with the keys and values of its tokens written to
        `kv`, the whole pool. Of several ranks only the first one gives logits; from others nothing
        is to be read."""

    def encode(self, batch: Batch, kv: torch.Tensor, kernels: Kernels) -> torch.Tensor:
        """Of an encoder-decoder: let the encoder read the texts of `batch`, which are whole, and
        write what the decoder keeps of them to their slots in `kv`. Gives the encoder's output."""

    def hidden(self, batch: Batch, kv: torch.Tensor, kernels: Kernels) -> torch.Tensor:
        """The same, but the final hidden states x_TD of all tokens, behind the last norm. Of
        several stages only the last one has them."""

    def logits(self, x_TD: torch.Tensor, rows_R: torch.Tensor, kernels: Kernels) -> torch.Tensor:
        """logits_RV of these rows of the final hidden states."""
