"""The Python API: an engine directory, loaded and ready to generate."""

import dataclasses
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from nimlite.build.engine_dir import EngineDirectory, open_engine
from nimlite.engine.batch import BatchLimits
from nimlite.engine.block_pool import BlockPool
from nimlite.engine.prefix_cache import PrefixCache
from nimlite.engine.request import Delta, EngineStats, FinishReason, Request, SamplingParams
from nimlite.engine.runner import Runner
from nimlite.engine.scheduler import Scheduler, SchedulerConfig
from nimlite.kernels import cpu_kernels
from nimlite.kernels.base import Kernels, KVLayout
from nimlite.layers.decoder import Decoder
from nimlite.layers.linear import Weights
from nimlite.models.spec import ModelSpec
from nimlite.profiles.manifest import Precision, Profile

_LOGIT_ROWS = 64
"""Prompt positions a step whose logits are computed for `prompt_logprobs`, beside the sampled ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What one prompt gave."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    num_prompt_tokens: int
    num_cached_tokens: int


class Engine:
    """Scheduler and runner over one model. Not thread-safe: one owner adds, steps and aborts."""

    def __init__(
        self,
        *,
        spec: ModelSpec,
        weights: Weights,
        profile: Profile,
        kernels: Kernels,
        eos_token_ids: Sequence[int],
        prefix_caching: bool = True,
    ) -> None:
        layout = kv_layout(spec, profile)
        limits = BatchLimits(
            max_tokens=profile.max_num_tokens,
            max_sequences=profile.max_batch_size,
            max_logit_rows=profile.max_batch_size + _LOGIT_ROWS,
            max_blocks=-(-profile.max_model_len // profile.block_size),
            block_size=profile.block_size,
        )
        self.spec = spec
        self.profile = profile
        self._runner = Runner(Decoder.load(spec, weights, layout), kernels, layout, limits)
        cache = PrefixCache(layout.block_size, enabled=prefix_caching)
        self._scheduler = Scheduler(
            SchedulerConfig(
                max_num_seqs=profile.max_batch_size,
                max_num_tokens=profile.max_num_tokens,
                max_model_len=profile.max_model_len,
                max_logit_rows=_LOGIT_ROWS,
                eos_token_ids=frozenset(eos_token_ids),
            ),
            BlockPool(layout.num_blocks, layout.block_size, cache),
            cache,
        )

    @property
    def has_work(self) -> bool:
        """True while a request is waiting or running."""
        return self._scheduler.has_work

    @property
    def stats(self) -> EngineStats:
        """Counters since the start, and what there is now."""
        return self._scheduler.stats()

    def check(self, request: Request) -> None:
        """Raises ContextLengthError for a request that could never run. May be called from any thread."""
        self._scheduler.check(request)

    def add(self, request: Request) -> None:
        """Queue a request. Raises ContextLengthError for one that could never run."""
        if request.params.seed is None:
            params = dataclasses.replace(request.params, seed=secrets.randbits(63))
            request = dataclasses.replace(request, params=params)
        self._scheduler.add(request)

    def abort(self, request_id: str) -> None:
        """Drop a request and free its blocks; an id that has ended already is ignored."""
        self._scheduler.abort(request_id)

    def step(self) -> list[Delta]:
        """Compute one step for what is queued and running."""
        plan = self._scheduler.schedule()
        return [] if plan is None else self._scheduler.update(plan, self._runner.execute(plan))
