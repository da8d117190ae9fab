"""Engines on the CPU."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from nimlite.build.engine_dir import EngineDirectory
from nimlite.build.selftest import Candidate
from nimlite.engine.buffer_sizes import kv_layout
from nimlite.engine.engine import Engine
from nimlite.engine.evaluate import Evaluation
from nimlite.engine.speculation import Speculation
from nimlite.kernels.base import Kernels
from nimlite.layers.decoder import Decoder
from nimlite.layers.linear import Weights
from nimlite.models.spec import ModelSpec
from nimlite.observe.progress import Progress
from nimlite.profiles.manifest import Precision, Profile
from nimlite.quant import scheme_for
from nimlite.quant.base import Scheme

_SCHEMES: Mapping[Precision, tuple[str, str]] = {
    Precision.FP32: ("fp32", "fp32"),
    Precision.BF16: ("bf16", "bf16"),
    Precision.FP8: ("fp8", "bf16"),
    Precision.INT8: ("int8", "int8"),
    Precision.INT8_WO: ("int8_wo", "bf16"),
    Precision.INT8_SQ: ("int8", "bf16"),
    Precision.INT4: ("int4", "int8"),
    Precision.INT4_AWQ: ("int4_wo", "bf16"),
    Precision.INT4_GPTQ: ("int4_wo", "bf16"),
}
"""The formats of the layers and of the vocabulary. That decides between tokens directly: int4 costs
5 % of perplexity there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuBackend:
    """The CPU with its kernels."""

    profile: Profile
    """As it runs: its `kv_cache_bytes` decided."""
    kernels: Kernels

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def keeps_weights(self) -> bool:
        return False

    def dense(self, spec: ModelSpec) -> str:
        return "torch"

    def scheme(self, name: str, num_columns: int) -> Scheme:
        layers, vocabulary = _SCHEMES[self.profile.precision]
        if name.endswith((".router", ".shared_gate")):
            return scheme_for("fp32", num_columns)
        is_vocabulary = name in ("embedding", "head")
        return scheme_for(vocabulary if is_vocabulary else layers, num_columns)

    def prepare(self, spec: ModelSpec, directory: Path, progress: Progress) -> None:
        """Its kernels are ready."""

    def logits(
        self, spec: ModelSpec, weights: Weights, directory: Path, progress: Progress
    ) -> Candidate:
        if self.profile.tp * self.profile.pp > 1:
            from nimlite.parallel.cpu import CpuPart, evaluation  # ranks use this module

            return evaluation(CpuPart.of(spec, self.profile, directory, self.kernels))
        layout = kv_layout(spec, self.profile)
        return Evaluation(Decoder.load(spec, weights, layout), self.kernels)

    def open(
        self,
        directory: EngineDirectory,
        progress: Progress,
        *,
        prefix_caching: bool = True,
        speculation: Speculation | None = None,
    ) -> Engine:
        if self.profile.tp * self.profile.pp > 1:
            from nimlite.parallel.cpu import CpuPart, open_engine

            spec = directory.config.spec
            part = CpuPart.of(spec, self.profile, directory.path, self.kernels)
            with progress.task(f"Start {self.profile.tp * self.profile.pp} ranks", None, ""):
                return open_engine(
                    part, directory, prefix_caching=prefix_caching, speculation=speculation
                )
        with progress.task("Load the weights", None, ""):
            return Engine.open(
                directory,
                kernels=self.kernels,
                profile=self.profile,
                prefix_caching=prefix_caching,
                speculation=speculation,
            )
