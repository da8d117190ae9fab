"""A model over several ranks outside of serving: each forward of rank 0 is one of all."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from nimlite.kernels.base import Batch, Kernels, KVLayout
from nimlite.layers.model import Model
from nimlite.models.spec import ModelSpec
from nimlite.parallel.team import FORWARD, Team

_FIELDS = (
    "token_ids_T",
    "positions_T",
    "slots_T",
    "query_starts_S1",
    "context_lens_S",
    "logit_rows_R",
)


@dataclass(frozen=True, slots=True)
class LedModel:
    """Rank 0's `model`, which takes the others along."""

    model: Model
    team: Team

    @property
    def spec(self) -> ModelSpec:
        return self.model.spec

    @property
    def layout(self) -> KVLayout:
        return self.model.layout

    @property
    def num_layers(self) -> int:
        return self.model.num_layers

    def __call__(self, batch: Batch, kv: torch.Tensor, kernels: Kernels) -> torch.Tensor:
        self.team.send(FORWARD, _encode(batch, kv.shape[2]))
        try:
            return self.model(batch, kv, kernels)
        except RuntimeError as error:
            raise self.team.explained(error) from error

    def encode(self, batch: Batch, kv: torch.Tensor, kernels: Kernels) -> torch.Tensor:
        """Encoders are not split (build/sharding.py)."""
        raise AssertionError("a model with an encoder runs on one rank")

    def hidden(self, batch: Batch, kv: torch.Tensor, kernels: Kernels) -> torch.Tensor:
        """Only steps pool (engine/runner.py)."""
        raise AssertionError("the other ranks do not know of it")

    def logits(self, x_TD: torch.Tensor, rows_R: torch.Tensor, kernels: Kernels) -> torch.Tensor:
        """Likewise."""
        raise AssertionError("the other ranks do not know of it")


class FollowedForward:
    """Another rank's part of it, over a pool of its own."""

    def __init__(self, model: Model, kernels: Kernels, device: torch.device) -> None:
        self._model, self._kernels, self._device = model, kernels, device
        self._kv = torch.empty(0)
        self._num_blocks = 0

    @torch.inference_mode()
    def run(self, message: np.ndarray) -> None:
        num_blocks, batch = _decode(message, self._device)
        if num_blocks != self._num_blocks:
            layout = replace(self._model.layout, num_blocks=num_blocks)
            self._kv = self._kernels.allocate_kv(self._model.num_layers, layout)
            self._num_blocks = num_blocks
        self._model(batch, self._kv, self._kernels)


def _encode(batch: Batch, num_blocks: int) -> np.ndarray:
    arrays = [getattr(batch, name).cpu().numpy() for name in _FIELDS]
    tables_SB = batch.block_tables_SB.cpu().numpy()
    head = np.array([num_blocks, tables_SB.shape[1], *map(len, arrays)], np.int32)
    return np.concatenate([head, *arrays, tables_SB.reshape(-1)])


def _decode(message: np.ndarray, device: torch.device) -> tuple[int, Batch]:
    head, begin = message[: 2 + len(_FIELDS)].tolist(), 2 + len(_FIELDS)
    arrays = {}
    for name, length in zip(_FIELDS, head[2:], strict=True):
        arrays[name] = torch.from_numpy(message[begin : begin + length].copy()).to(device)
        begin += length
    tables_SB = torch.from_numpy(message[begin:].copy()).view(-1, head[1]).to(device)
    return head[0], Batch(**arrays, block_tables_SB=tables_SB)
