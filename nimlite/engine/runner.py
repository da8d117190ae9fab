"""One step on the device: fill the buffers, run the captured forward, sample."""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch

from nimlite.engine.batch import BatchBuffers, BatchLimits, source_batch
from nimlite.engine.plan import (
    BlockCopy,
    SampledToken,
    ScheduledChunk,
    ScheduledRead,
    StepOutput,
    StepPlan,
)
from nimlite.engine.pooler import Pooled, pool
from nimlite.engine.request import Logprob
from nimlite.engine.sampler import Sampler, SamplingRow, logprob_of
from nimlite.engine.sequence import Sequence as RequestSequence
from nimlite.engine.speculation import accepted
from nimlite.engine.step_message import DecodedStep, StepEncoder, decode
from nimlite.engine.token_masks import TokenMasks
from nimlite.kernels.base import Counts, Kernels, KVLayout
from nimlite.kernels.torch_kernels import used_part
from nimlite.layers.model import Model


class Team(Protocol):
    """The other ranks that compute each step, too."""

    @property
    def num_stages(self) -> int:
        """1: all of them compute all layers."""

    def send_step(self, message: np.ndarray) -> None:
        """To all others: a `step_message`."""

    def share(self, tokens_R: torch.Tensor) -> None:
        """The first one's, in place, to all."""


class Runner:
    """Owns the KV pool and the step's static buffers."""

    def __init__(
        self,
        model: Model,
        kernels: Kernels,
        layout: KVLayout,
        limits: BatchLimits,
        sampler: Sampler,
        masks: TokenMasks | None = None,
        team: Team | None = None,
    ) -> None:
        """Of the first rank, with `masks`; or of another one, which can only `follow`."""
        self._model = model
        self._kernels = kernels
        self._kv = kernels.allocate_kv(model.num_layers, layout)
        self._buffers = BatchBuffers(limits, self._kv.device)
        self._sampler = sampler
        self._masks = masks
        self._team = team
        self._encoder = StepEncoder(limits) if team and masks else None
        self._sampled_rows: dict[RequestSequence, int] = {}
        self._sampled: Callable[[], list[SampledToken]] = list
        with torch.inference_mode():
            self._forward = kernels.capture(
                lambda batch: model(batch, self._kv, kernels),
                self._buffers.batch,
                decodes=model.spec.causal,
            )

    @property
    def depth(self) -> int:
        """Steps that may be under way while another is launched: each stage has one, and where
        sampled tokens stay on the device one waits there."""
        if self._team is not None and self._team.num_stages > 1:
            return self._team.num_stages - 1
        return int(self._sampler.lookahead)

    @torch.inference_mode()
    def launch(self, plan: StepPlan) -> Callable[[], StepOutput]:
        """Run the plan's copies, then its chunks; sample after those that reach their sequence's
        end. The function that is returned waits for the result."""
        if self._team is None or self._encoder is None:
            self._copy_blocks(plan.copies)
            if plan.reads:
                self._read(plan.reads)
            return self._compute(plan, self._buffers.fill(plan, self._sampled_rows))
        assert not plan.reads, "encoders are not split over ranks"
        message = self._encoder.encode(plan, self._sampled_rows)
        self._team.send_step(message)
        if self._team.num_stages == 1:
            return self._compute(plan, self._load(message).counts)
        # The stages before this one are at it now; meanwhile another step may be sent to them.
        return lambda: self._compute_later(plan, message)

    @torch.inference_mode()
    def follow(self, message: np.ndarray) -> None:
        """This rank's part of a step that the first one launched."""
        assert self._team is not None
        step = self._load(message)
        self._sampler.feed(self._buffers, step.counts)
        if step.pools:
            self._run_hidden(step.counts)
        else:
            self._forward(step.counts)
        if self._sampler.lookahead and step.num_sampled:
            assert self._sampler.tokens_R is not None
            self._team.share(self._sampler.tokens_R[: step.num_sampled])

    def _load(self, message: np.ndarray) -> DecodedStep:
        step = self._buffers.load(functools.partial(decode, message))
        self._copy_blocks([BlockCopy(*pair) for pair in step.copies.tolist()])
        return step

    @torch.inference_mode()
    def _compute_later(self, plan: StepPlan, message: np.ndarray) -> StepOutput:
        return self._compute(plan, self._load(message).counts)()

    def _compute(self, plan: StepPlan, counts: Counts) -> Callable[[], StepOutput]:
        assert self._masks is not None
        self._sampler.feed(self._buffers, counts)
        pooled: Callable[[], Pooled] = dict
        if plan.pools:
            logits_RV, pooled = self._run_and_pool(plan, counts)
        else:
            logits_RV = self._forward(counts)
        last_rows: list[int] = []
        prompt_logprobs: list[tuple[Logprob, ...]] = []
        num_rows = 0
        for chunk in plan.chunks:
            prompt_logprobs.append(_prompt_logprobs(chunk, logits_RV, num_rows))
            num_rows += chunk.num_logit_rows
            if chunk.samples:
                last_rows += range(num_rows - 1 - len(chunk.drafts), num_rows)
        if len(last_rows) < num_rows:
            logits_RV = logits_RV[last_rows]
        sampling = [chunk for chunk in plan.chunks if chunk.samples]
        rows: list[SamplingRow] = []
        first_rows: dict[RequestSequence, int] = {}
        for chunk in sampling:
            first_rows[chunk.sequence] = len(rows)
            rows.append(_row(chunk, self._sampled_rows))
            if chunk.drafts:
                rows += _guessing_rows(chunk, rows[-1])
        # While the device computes: this waits for the tokens of the step before, not of this one.
        mask = self._masks.fill(sampling, self._pending_token)
        self._sampled_rows = first_rows
        sampled = functools.cache(self._sampler.launch(logits_RV, rows, mask))
        self._sampled = sampled
        if self._team is not None and self._sampler.lookahead and rows:
            assert self._sampler.tokens_R is not None
            self._team.share(self._sampler.tokens_R[: len(rows)])
        errors = {} if mask is None else mask.errors

        def result() -> StepOutput:
            found = sampled()
            if errors:
                found = [t._replace(error=errors.get(row)) for row, t in enumerate(found)]
            tokens = iter(found)
            return StepOutput(
                tuple(_sampled_after(chunk, tokens) for chunk in plan.chunks),
                tuple(prompt_logprobs),
                pooled(),
            )

        return result

    def _run_and_pool(
        self, plan: StepPlan, counts: Counts
    ) -> tuple[torch.Tensor, Callable[[], Pooled]]:
        """The step's logits_RV, and what its texts to embed give. It is not the captured forward,
        which knows the hidden states of few tokens only."""
        x_TD, logits_RV = self._run_hidden(counts)
        return logits_RV, pool(plan.chunks, x_TD)

    def _run_hidden(self, counts: Counts) -> tuple[torch.Tensor, torch.Tensor]:
        batch = used_part(self._buffers.batch, counts)
        x_TD = self._model.hidden(batch, self._kv, self._kernels)
        return x_TD, self._model.logits(x_TD, batch.logit_rows_R, self._kernels)

    def _pending_token(self, sequence: RequestSequence) -> int:
        """What the step before sampled for it."""
        return self._sampled()[self._sampled_rows[sequence]].token_id

    def _read(self, reads: Sequence[ScheduledRead]) -> None:
        sources = [(read.sequence.source_token_ids, read.block_table) for read in reads]
        block_size = self._model.layout.block_size
        batch = source_batch(sources, block_size, self._kv.device)
        self._model.encode(batch, self._kv, self._kernels)

    def _copy_blocks(self, copies: Sequence[BlockCopy]) -> None:
        if copies:
            targets = [copy.target for copy in copies]
            self._kv[:, :, targets] = self._kv[:, :, [copy.source for copy in copies]]


def _sampled_after(
    chunk: ScheduledChunk, tokens: Iterator[SampledToken]
) -> tuple[SampledToken, ...]:
    """Of the step's tokens, the chunk's, as far as they count."""
    if not chunk.samples:
        return ()
    if not chunk.drafts:
        return (next(tokens),)
    return accepted(chunk.drafts, list(itertools.islice(tokens, 1 + len(chunk.drafts))))


def _row(chunk: ScheduledChunk, sampled_rows: Mapping[RequestSequence, int]) -> SamplingRow:
    sequence, params = chunk.sequence, chunk.sequence.request.params
    num_known_outputs = len(sequence.token_ids) - sequence.num_prompt_tokens
    is_pending = chunk.output_index > num_known_outputs
    # With a grammar the mask does it, for it knows where nothing else can follow.
    is_suppressed = chunk.output_index < params.min_tokens and sequence.request.grammar is None
    return SamplingRow(
        params=params,
        seed=params.seed or 0,
        output_index=chunk.output_index,
        token_ids=sequence.token_ids,
        num_prompt_tokens=sequence.num_prompt_tokens,
        suppressed=sorted(sequence.stop_token_ids) if is_suppressed else (),
        pending_row=sampled_rows[sequence] if is_pending else None,
        sequence=None if chunk.drafts else sequence,
    )


def _guessing_rows(chunk: ScheduledChunk, first: SamplingRow) -> Iterator[SamplingRow]:
    """One behind each draft, where the drafts up to it count as sampled."""
    for count, guess in enumerate(chunk.drafts, start=1):
        output_index = first.output_index + count
        is_suppressed = output_index < first.params.min_tokens
        yield first._replace(
            output_index=output_index,
            token_ids=[*first.token_ids, *chunk.drafts[:count]],
            suppressed=first.suppressed if is_suppressed else (),
            guess=guess,
        )


def _prompt_logprobs(
    chunk: ScheduledChunk, logits_RV: torch.Tensor, first_row: int
) -> tuple[Logprob, ...]:
    """Of the prompt's tokens that follow the chunk's ones, whose rows begin at `first_row`."""
    sequence = chunk.sequence
    count = sequence.request.params.prompt_logprobs
    if count is None or chunk.num_logit_rows < chunk.num_tokens:
        return ()
    end = min(chunk.start + chunk.num_tokens + 1, sequence.num_prompt_tokens)
    following = sequence.token_ids[chunk.start + 1 : end]
    return tuple(
        logprob_of(logits_RV[row], token_id, count)
        for row, token_id in enumerate(following, first_row)
    )
