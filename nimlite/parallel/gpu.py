"""Ranks on GPUs: each has one, with its part of the weights and of the KV pool."""

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nimlite.build.converted_dir import ConvertedDirectory
from nimlite.engine.buffer_sizes import batch_limits, kv_layout
from nimlite.engine.device_sampler import DeviceSampler
from nimlite.engine.engine import Engine
from nimlite.engine.gpu import activation_dtype, measure_kv_bytes, products, random_weights
from nimlite.engine.runner import Runner
from nimlite.kernels.triton.kernel_cache import KernelCache
from nimlite.kernels.triton.kernels import TritonKernels
from nimlite.layers.decoder import Decoder
from nimlite.layers.linear import Weights
from nimlite.models.spec import ModelSpec
from nimlite.parallel.process_ranks import ProcessRanks
from nimlite.parallel.team import STEP, Follower, Team
from nimlite.profiles.manifest import Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPart:
    """A model over several GPUs; plain data, for other processes."""

    spec: ModelSpec
    profile: Profile
    directory: ConvertedDirectory | None
    """None: random weights."""
    compiled: Path
    """Where each rank keeps its kernels."""
    memory_bytes: int | None = None
    """What each rank may take in all."""

    def engine(self, devices: tuple[int, ...], **options: Any) -> Engine:
        """Starts the other ranks; `options` as `Engine` takes them."""
        recipe = partial(_follower, self)
        team = Team.launch(recipe, tp=self.profile.tp, pp=self.profile.pp, devices=devices)
        try:
            rank = _Loaded.of(self, team.ranks)
            return Engine(
                spec=self.spec,
                weights=rank.weights,
                profile=rank.profile,
                kernels=rank.kernels,
                sampler=rank.sampler,
                shard=team.ranks.shard,
                team=team,
                **options,
            )
        except BaseException:
            team.close()
            raise

    def weights(self, ranks: ProcessRanks) -> Weights:
        if self.directory is None:
            return random_weights(self.spec, self.profile.precision, ranks.device, ranks.shard)
        return self.directory.weights_on(ranks.device, ranks.rank)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What every rank has."""

    weights: Weights
    kernels: TritonKernels
    profile: Profile
    """With the bytes of the pool that every rank has room for."""
    sampler: DeviceSampler

    @classmethod
    def of(cls, part: GpuPart, ranks: ProcessRanks) -> "_Loaded":
        """All ranks do this at once."""
        spec, profile, device = part.spec, part.profile, ranks.device
        weights = part.weights(ranks)
        cache = KernelCache(part.compiled / f"rank{ranks.rank}", device)
        cache.activate()
        dtype = activation_dtype(profile.precision)
        choices = cache.choices(products(spec, profile.precision, ranks.shard), dtype)
        kernels = TritonKernels(device, dtype, profile.max_batch_size, choices, ranks=ranks)
        left = measure_kv_bytes(
            spec, weights, profile, kernels, device, part.memory_bytes, shard=ranks.shard
        )
        left = ranks.least(min(left, profile.kv_cache_bytes or left))
        # Where stages work on different steps, a step's tokens are sent along with it.
        lookahead = ranks.num_stages == 1
        sampler = DeviceSampler(profile.max_batch_size, device, lookahead=lookahead)
        return cls(weights, kernels, dataclasses.replace(profile, kv_cache_bytes=left), sampler)


@dataclass(frozen=True, slots=True)
class _GpuFollower:
    runner: Runner

    def take(self, message: np.ndarray) -> None:
        assert int(message[0]) == STEP
        self.runner.follow(message[1:])


def _follower(part: GpuPart, ranks: ProcessRanks) -> Follower:
    rank = _Loaded.of(part, ranks)
    profile = rank.profile
    layout = kv_layout(part.spec, profile, ranks.shard)
    decoder = Decoder.load(part.spec, rank.weights, layout, ranks.shard, profile.max_model_len)
    limits = batch_limits(profile)
    runner = Runner(decoder, rank.kernels, layout, limits, rank.sampler, team=ranks)
    return _GpuFollower(runner)
