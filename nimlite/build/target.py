"""What a build asks of the device that it builds for."""

from pathlib import Path
from typing import Protocol

import torch

from nimlite.build.selftest import Candidate
from nimlite.layers.linear import Weights
from nimlite.models.spec import ModelSpec
from nimlite.observe.progress import Progress
from nimlite.quant.base import Scheme


class Packing(Protocol):
    """How weights are held on a device."""

    @property
    def device(self) -> torch.device:
        """Where weights are packed."""

    @property
    def keeps_weights(self) -> bool:
        """Whether they stay there and serve at once, and are written from there. Else they go to
        the file one by one."""

    def dense(self, spec: ModelSpec) -> str:
        """What computes the dense layers there, as far as it shapes an engine. Raises SettingError
        where that can't be had."""

    def scheme(self, name: str, num_columns: int) -> Scheme:
        """The format of the engine tensor `name`."""


class BuildTarget(Packing, Protocol):
    """How weights are held there, and how the engine will compute with them."""

    def prepare(self, spec: ModelSpec, directory: Path, progress: Progress) -> None:
        """Do what needs no weights, in a thread beside the conversion: compile."""

    def logits(
        self, spec: ModelSpec, weights: Weights, directory: Path, progress: Progress
    ) -> Candidate:
        """The engine's own arithmetic over `weights`. What it measures or compiles for this model
        is kept in `directory`."""
