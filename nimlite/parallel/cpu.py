"""Ranks on the CPU: each has its threads, its part of the weights and of the KV pool."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nimlite.build.engine_dir import EngineDirectory
from nimlite.build.weights_file import load_weights
from nimlite.engine.buffer_sizes import batch_limits, kv_layout
from nimlite.engine.engine import Engine
from nimlite.engine.evaluate import Evaluation
from nimlite.engine.runner import Runner
from nimlite.engine.sampler import HostSampler
from nimlite.kernels.base import Kernels, Ranks
from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.kernels.cpu.library import Library
from nimlite.kernels.torch_kernels import TorchKernels
from nimlite.layers.decoder import Decoder
from nimlite.layers.shard import Shard
from nimlite.models.spec import ModelSpec
from nimlite.parallel.led_model import FollowedForward, LedModel
from nimlite.parallel.process_ranks import ProcessRanks
from nimlite.parallel.team import FORWARD, Follower, Team
from nimlite.profiles.manifest import Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuPart:
    """A model whose ranks lie in `directory`; plain data, for other processes."""

    spec: ModelSpec
    profile: Profile
    directory: Path
    library: Path | None
    """The compiled kernels; None: plain torch."""
    num_threads: int
    """Of each rank."""

    @classmethod
    def of(cls, spec: ModelSpec, profile: Profile, directory: Path, kernels: Kernels) -> "CpuPart":
        """Computed as by `kernels`, whose threads the ranks share."""
        library, threads = None, 1
        if isinstance(kernels, CpuKernels):
            library = kernels.library.path
            threads = max(1, kernels.num_threads // (profile.tp * profile.pp))
        return cls(
            spec=spec, profile=profile, directory=directory, library=library, num_threads=threads
        )

    def kernels(self, ranks: Ranks) -> Kernels:
        if self.library is None:
            return TorchKernels(ranks=ranks)
        return CpuKernels(Library(self.library), self.num_threads, ranks)

    def decoder(self, rank: int) -> Decoder:
        shard = Shard.of(rank, self.profile.tp, self.profile.pp)
        weights = load_weights(self.directory, rank)
        layout = kv_layout(self.spec, self.profile, shard)
        return Decoder.load(self.spec, weights, layout, shard, self.profile.max_model_len)

    def launch(self, *, serves: bool) -> Team:
        """The other ranks. Else than `serves`, they have no pool and know no steps."""
        recipe = partial(follower, self, serves)
        return Team.launch(recipe, tp=self.profile.tp, pp=self.profile.pp)


def evaluation(part: CpuPart) -> Evaluation:
    """The ranks' arithmetic, without serving."""
    team = part.launch(serves=False)
    return Evaluation(LedModel(part.decoder(0), team), part.kernels(team.ranks), team=team)


def open_engine(part: CpuPart, directory: EngineDirectory, **options: Any) -> Engine:
    """The engine in `directory` over its ranks; `options` as `Engine.open` takes them."""
    team = part.launch(serves=True)
    try:
        return Engine.open(
            directory, kernels=part.kernels(team.ranks), profile=part.profile, team=team, **options
        )
    except BaseException:
        team.close()
        raise


@dataclass(frozen=True, slots=True)
class _CpuFollower:
    forward: FollowedForward
    runner: Runner | None

    def take(self, message: np.ndarray) -> None:
        kind, rest = int(message[0]), message[1:]
        if kind == FORWARD:
            self.forward.run(rest)
            return
        assert self.runner is not None
        self.runner.follow(rest)


def follower(part: CpuPart, serves: bool, ranks: ProcessRanks) -> Follower:
    """Another rank's part."""
    kernels, decoder = part.kernels(ranks), part.decoder(ranks.rank)
    forward = FollowedForward(decoder, kernels, ranks.device)
    if not serves:
        return _CpuFollower(forward, None)
    limits = batch_limits(part.profile)
    runner = Runner(decoder, kernels, decoder.layout, limits, HostSampler(), team=ranks)
    return _CpuFollower(forward, runner)
