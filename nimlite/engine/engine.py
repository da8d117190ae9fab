"""The Python API: an engine directory, loaded and ready to generate."""

import dataclasses
import operator
import os
import secrets
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from tokenizers import Tokenizer

from nimlite.build.engine_dir import EngineDirectory, open_engine
from nimlite.engine.beam_group import check_vocabulary
from nimlite.engine.block_pool import BlockPool
from nimlite.engine.buffer_sizes import LOGIT_ROWS, batch_limits, kv_layout
from nimlite.engine.grammar import GrammarCompiler
from nimlite.engine.limits import RequestLimits, check_params
from nimlite.engine.plan import StepOutput, StepPlan
from nimlite.engine.prefix_cache import PrefixCache
from nimlite.engine.request import (
    Delta,
    EngineStats,
    FinishReason,
    Grammar,
    Request,
    SamplingParams,
)
from nimlite.engine.runner import Runner, Team
from nimlite.engine.sampler import HostSampler, Sampler
from nimlite.engine.scheduler import Scheduler
from nimlite.engine.scheduler_config import SchedulerConfig
from nimlite.engine.speculation import Speculation, Speculator
from nimlite.engine.token_masks import TokenMasks
from nimlite.errors import EngineError, RequestError, SettingError
from nimlite.kernels.base import Kernels
from nimlite.kernels.select import cpu_kernels
from nimlite.layers.decoder import Decoder
from nimlite.layers.linear import Weights
from nimlite.layers.model import Model
from nimlite.layers.shard import WHOLE, Shard
from nimlite.models.embedding import Pooling
from nimlite.models.spec import ModelSpec
from nimlite.observe.progress import SILENT
from nimlite.profiles.manifest import Device, Profile
from nimlite.settings import default_cache_path


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What one prompt gave."""

    text: str
    """Empty where the engine has no tokenizer."""
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    num_prompt_tokens: int
    num_cached_tokens: int


class LostTeam(Team, Protocol):
    """A `Team` that can end, or be lost."""

    def on_loss(self, tell: Callable[[str], None]) -> None:
        """Let `tell` hear once that it is lost, and why: in another thread, or now."""

    def explained(self, error: Exception) -> EngineError:
        """What an error in a step comes from."""

    def close(self) -> None: ...


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
        tokenizer: Tokenizer | None = None,
        prefix_caching: bool = True,
        sampler: Sampler | None = None,
        dense: Callable[[Decoder], Model] | None = None,
        speculator: Speculator | None = None,
        shard: Shard = WHOLE,
        team: LostTeam | None = None,
    ) -> None:
        """The profile's `kv_cache_bytes` must be decided. Without a tokenizer prompts are token
        ids, and without a sampler the host samples. `dense` lets something else than the kernels
        compute the dense layers. `speculator`: guesses tokens; None: nobody does. `shard`: of
        several ranks this one's, the first; `team`: the others."""
        if not spec.causal:  # whose texts must be whole in a step
            longest = min(profile.max_model_len, profile.max_num_tokens)
            profile = dataclasses.replace(profile, max_model_len=longest)
        layout = kv_layout(spec, profile, shard)
        self.spec = spec
        self.profile = profile
        self.grammars = GrammarCompiler(tokenizer, spec.vocab_size, eos_token_ids)
        self._tokenizer = tokenizer
        self._eos_token_ids = frozenset(eos_token_ids)
        decoder = Decoder.load(spec, weights, layout, shard, profile.max_model_len)
        model = dense(decoder) if dense else decoder
        masks = TokenMasks(self.grammars)
        self._team = team
        self._runner = Runner(
            model,
            kernels,
            layout,
            batch_limits(profile, has_encoder=spec.encoder is not None),
            sampler or HostSampler(),
            masks,
            team,
        )
        self._in_flight: deque[tuple[StepPlan, Callable[[], StepOutput]]] = deque()
        self._speculator = speculator
        self._began = 0.0
        cache = PrefixCache(
            layout.block_size,
            window=spec.widest_window,
            enabled=prefix_caching and spec.causal,
        )
        self._scheduler = Scheduler(
            SchedulerConfig(
                max_num_seqs=profile.max_batch_size,
                max_num_tokens=profile.max_num_tokens,
                max_model_len=profile.max_model_len,
                window=spec.widest_window,
                max_logit_rows=LOGIT_ROWS,
                eos_token_ids=self._eos_token_ids,
                num_stages=shard.stages,
                whole_texts=not spec.causal,
                decoder_prompt=spec.decoder_prompt,
            ),
            BlockPool(layout.num_blocks, layout.block_size, cache),
            cache,
            self._speculator,
        )

    @classmethod
    def load(cls, directory: Path | str, *, num_threads: int | None = None) -> "Engine":
        """An engine directory (what `nimlite build` makes), for use from Python.

        `num_threads`: compute threads; default: every core this process may use. Raises ModelError
        for something that is no engine, ChecksumError for a damaged one, SettingError for one of a
        GPU where there is none.
        """
        threads = num_threads or len(os.sched_getaffinity(0))
        opened = open_engine(Path(directory).expanduser())
        if opened.config.profile.device is Device.GPU:
            if not torch.cuda.is_available():
                raise SettingError(
                    f"{opened.path} is built for a GPU ({opened.config.profile.name}), and torch"
                    " sees none here: build one for the CPU with `nimlite build`, or let the"
                    " process see the GPU."
                )
            from nimlite.engine.gpu import GpuBackend  # it needs Triton, which a CPU does not have

            return GpuBackend(profile=opened.config.profile).open(opened, SILENT)
        from nimlite.engine.cpu import CpuBackend  # it imports this module

        head_dim = opened.config.spec.head_dim
        selected = cpu_kernels(default_cache_path() / "kernels", threads, head_dim)
        backend = CpuBackend(profile=opened.config.profile, kernels=selected.kernels)
        return backend.open(opened, SILENT)

    @classmethod
    def open(
        cls,
        directory: EngineDirectory,
        *,
        kernels: Kernels,
        profile: Profile | None = None,
        prefix_caching: bool = True,
        speculation: Speculation | None = None,
        team: LostTeam | None = None,
    ) -> "Engine":
        """`profile`: with the limits of this machine; default: the one that the engine was built
        for. `team`: the other ranks; this is the first."""
        config = directory.config
        return cls(
            spec=config.spec,
            weights=directory.weights(),
            profile=profile or config.profile,
            kernels=kernels,
            eos_token_ids=config.eos_token_ids,
            tokenizer=Tokenizer.from_file(str(directory.path / "tokenizer.json")),
            prefix_caching=prefix_caching,
            speculator=Speculator(speculation) if speculation else None,
            shard=Shard.of(0, config.profile.tp, config.profile.pp),
            team=team,
        )

    @property
    def has_work(self) -> bool:
        """True while a request is waiting or running."""
        return self._scheduler.has_work or bool(self._in_flight)

    @property
    def stats(self) -> EngineStats:
        """Counters since the start, and what there is now."""
        return self._scheduler.stats()

    @property
    def limits(self) -> RequestLimits:
        """What one request may ask for; they never change."""
        return self._scheduler.limits

    def add(self, request: Request) -> None:
        """Queue a request. Raises ContextLengthError for one that could never run, RequestError for
        a grammar that can't be followed (compiled here, unless `grammars` knows it), and for one to
        write by a model that only reads."""
        if request.pooling is None and not self.spec.causal:
            raise RequestError(
                f"A {self.spec.architecture} reads whole texts and writes none: ask it for"
                " embeddings."
            )
        if request.grammar is not None:
            self.grammars.check(request.grammar)
        if request.beam_search is not None:
            check_vocabulary(request, self._eos_token_ids, self.spec.vocab_size)
        if request.params.seed is None:
            params = dataclasses.replace(request.params, seed=secrets.randbits(63))
            request = dataclasses.replace(request, params=params)
        self._scheduler.add(request)

    def abort(self, request_id: str) -> None:
        """Drop a request and free its blocks; an id that has ended already is ignored."""
        self._scheduler.abort(request_id)

    def step(self) -> list[Delta]:
        """Compute one step for what is queued and running.

        Where the device allows it, the deltas are those of the step before: this one is computed
        while the host looks at them. Not so where the tokens are guessed: what comes after them
        depends on which were right.
        """
        try:
            return self._step()
        except RuntimeError as error:
            if self._team is None:
                raise
            raise self._team.explained(error) from error

    def on_loss(self, tell: Callable[[str], None]) -> None:
        """Let `tell` hear, from any thread, when another rank is lost and why: no step will do."""
        if self._team is not None:
            self._team.on_loss(tell)

    def close(self) -> None:
        """End other ranks, where there are any. It can't be used any more."""
        if self._team is not None:
            self._team.close()

    def _step(self) -> list[Delta]:
        if self._in_flight and self._scheduler.awaits_tokens():
            return self._take()
        plan = self._scheduler.schedule()
        if plan is None:
            return self._take() if self._in_flight else []
        waits = not self._in_flight and plan.num_drafted > 0
        if not self._in_flight:
            self._began = time.perf_counter()
        self._in_flight.append((plan, self._runner.launch(plan)))
        if not waits and len(self._in_flight) <= self._runner.depth:
            return []
        return self._take()

    def _take(self) -> list[Delta]:
        """Wait for the first step in flight. It took as long as since the one before, or since its
        launch."""
        plan, result = self._in_flight.popleft()
        output = result()
        ended = time.perf_counter()
        if self._speculator is not None and plan.is_decode:
            self._speculator.observe(plan.num_tokens, ended - self._began)
        self._began = ended
        return self._scheduler.update(plan, output)

    def generate(
        self,
        prompts: str | Iterable[str | Sequence[int]],
        params: SamplingParams | None = None,
        *,
        grammar: Grammar | None = None,
    ) -> list[Generation]:
        """Go on from each prompt (a text, or token ids), all of them in flight together, each as
        `grammar` has it. One text counts as a list of it.

        Raises RequestError, before anything runs, for a prompt that is empty, has token ids outside
        the vocabulary, or could never fit, for params out of their range, and for a grammar that
        can't be followed.
        """
        params = params or SamplingParams()
        check_params(params)
        prompts = [prompts] if isinstance(prompts, str) else prompts
        prefix = uuid.uuid4().hex
        requests = [
            Request(
                id=f"{prefix}-{index}",
                prompt_token_ids=self._encode(prompt),
                params=params,
                grammar=grammar,
            )
            for index, prompt in enumerate(prompts)
        ]
        deltas = self._answer(requests)
        return [self._generation(request, deltas[request.id]) for request in requests]

    def embed(
        self, prompts: str | Iterable[str | Sequence[int]], pooling: Pooling
    ) -> list[np.ndarray]:
        """The final hidden states of each prompt, pooled: fp32, of the hidden size, and not
        normalised. Raises as `generate` does."""
        prompts = [prompts] if isinstance(prompts, str) else prompts
        prefix = uuid.uuid4().hex
        requests = [
            Request(
                id=f"{prefix}-{index}",
                prompt_token_ids=self._encode(prompt),
                params=SamplingParams(max_tokens=0),
                pooling=pooling,
            )
            for index, prompt in enumerate(prompts)
        ]
        deltas = self._answer(requests)
        return [np.frombuffer(deltas[r.id][-1].embedding, np.float32).copy() for r in requests]

    def _answer(self, requests: Sequence[Request]) -> dict[str, list[Delta]]:
        """All deltas of each, by its id."""
        for request in requests:
            self.limits.check(request)
        deltas: dict[str, list[Delta]] = {request.id: [] for request in requests}
        try:
            for request in requests:
                self.add(request)
            while self.has_work:
                for delta in self.step():
                    deltas[delta.request_id].append(delta)
        finally:  # an interrupt leaves nothing behind for the next call
            for request in requests:
                self.abort(request.id)
        return deltas

    def _encode(self, prompt: str | Sequence[int]) -> tuple[int, ...]:
        if isinstance(prompt, str):
            assert self._tokenizer is not None, "this engine has no tokenizer: give token ids"
            prompt = self._tokenizer.encode(prompt).ids
        try:
            token_ids = tuple(map(operator.index, prompt))  # of numpy or torch, too
        except TypeError as error:
            raise RequestError(
                f"A prompt is a text or a list of token ids; {prompt!r:.80} is neither."
            ) from error
        if not token_ids:
            raise RequestError("A prompt must have at least one token; this one is empty.")
        if min(token_ids) < 0 or max(token_ids) >= self.spec.vocab_size:
            raise RequestError(
                f"The prompt's token ids go from {min(token_ids)} to {max(token_ids)}, but this "
                f"model's vocabulary has the ids 0 to {self.spec.vocab_size - 1}."
            )
        return token_ids

    def _generation(self, request: Request, deltas: Sequence[Delta]) -> Generation:
        token_ids = [token_id for delta in deltas for token_id in delta.token_ids]
        finish_reason = deltas[-1].finish_reason
        assert finish_reason is not None, f"{request.id} ended without a reason"
        return Generation(
            text=self._tokenizer.decode(token_ids) if self._tokenizer else "",
            token_ids=tuple(token_ids),
            finish_reason=finish_reason,
            num_prompt_tokens=len(request.prompt_token_ids),
            num_cached_tokens=max(delta.num_cached_tokens for delta in deltas),
        )
