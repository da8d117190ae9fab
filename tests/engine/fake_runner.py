"""A runner that computes nothing but remembers everything: who wrote which slot of the KV pool.

What it writes for position p is a hash of the sequence's tokens 0 … p. Before it samples, it reads
every position of every chunk's context through the block table, and each must hold that very hash:
a wrong prefix match, a missing copy or a block given away too early all show. The next token is a
hash of the history too, so each request has one right answer, whatever it is batched with.
"""

from collections import deque
from itertools import accumulate

import numpy as np
import torch

from nimlite.engine.beam_group import BeamGroup
from nimlite.engine.beam_search import Beams
from nimlite.engine.block_pool import BlockPool
from nimlite.engine.plan import SampledToken, ScheduledChunk, StepOutput, StepPlan
from nimlite.engine.pooler import Pooled, pool
from nimlite.engine.prefix_cache import PrefixCache
from nimlite.engine.request import Delta, FinishReason, Logprob
from nimlite.engine.scheduler import Scheduler
from nimlite.engine.scheduler_config import SchedulerConfig
from nimlite.engine.sequence import Sequence
from nimlite.models.embedding import Pooling

VOCAB_SIZE = 12
EOS = 0


def histories(token_ids):
    """One hash a position, of all tokens up to it."""
    return list(accumulate(token_ids, lambda history, token: hash((history, token)), initial=1))[1:]


def next_token(history, request, output_index):
    """The one right token after a history, for the request's seed; no stop before min_tokens."""
    params = request.params
    stops = set(params.stop_token_ids) | (set() if params.ignore_eos else {EOS})
    token = hash((history, params.seed, output_index)) % VOCAB_SIZE
    while output_index < params.min_tokens and token in stops:
        token = (token + 1) % VOCAB_SIZE
    return token


def beam_candidates(history, request):
    """The likeliest next tokens, by another hash of the history."""
    scores = {token: -(hash((history, token, 7)) % 9973) / 2000 for token in range(VOCAB_SIZE)}
    best = sorted(scores, key=lambda token: -scores[token])[: request.params.logprobs]
    top = tuple((token, scores[token]) for token in best)
    return SampledToken(best[0], Logprob(best[0], scores[best[0]], 1, top))


def beams_alone(request):
    """(token ids, finish reason) of a search's texts, best first, without blocks and steps."""
    group = BeamGroup(request, frozenset({EOS}))
    stops = frozenset(request.params.stop_token_ids) | (
        frozenset() if request.params.ignore_eos else {EOS}
    )
    search, texts = Beams(request, stops), [list(request.prompt_token_ids)]
    while texts:
        tops = [
            beam_candidates(histories(text)[-1], group.request_of(0)).logprob.top for text in texts
        ]
        candidates = [[Logprob(token, score, 1, ()) for token, score in top] for top in tops]
        texts = [[*texts[c.beam], c.logprob.token_id] for c in search.extend(candidates)]
    return [(found.token_ids, found.finish_reason) for found in search.finished]


def prompt_logprob(history, token_id):
    return Logprob(token_id, -float(history % 1000), 1, ())


def generate_alone(request):
    """(token ids, finish reason, prompt log-probabilities) of a request, from first principles."""
    params, tokens, outputs = request.params, list(request.prompt_token_ids), []
    stops = set(params.stop_token_ids) | (set() if params.ignore_eos else {EOS})
    logprobs = ()
    if params.prompt_logprobs is not None:
        pairs = zip(histories(tokens), tokens[1:], strict=False)
        logprobs = (None, *(prompt_logprob(history, token) for history, token in pairs))
    reason = FinishReason.LENGTH
    while len(outputs) < params.max_tokens:
        token = next_token(histories(tokens)[-1], request, len(outputs))
        tokens.append(token)
        outputs.append(token)
        if token in stops and len(outputs) > params.min_tokens:
            reason = FinishReason.STOP
            break
    return tuple(outputs), reason, logprobs


def hidden_state(history):
    """Of one dimension."""
    return float(history % 1000)


def embed_alone(request):
    """The embedding of a request, from first principles."""
    states = [hidden_state(history) for history in histories(request.prompt_token_ids)]
    mean = np.float32(sum(states)) / np.float32(len(states))
    return {Pooling.LAST: states[-1], Pooling.MEAN: mean, Pooling.CLS: states[0]}[request.pooling]


class FakeRunner:
    """Executes plans in order, as a device does."""

    def __init__(self, config: SchedulerConfig, block_size: int) -> None:
        self.config = config
        self.block_size = block_size
        self.kv: dict[int, int] = {}
        self._sampled: dict[tuple[Sequence, int], int] = {}

    def execute(self, plan: StepPlan) -> StepOutput:
        self._check_limits(plan)
        self._copy_blocks(plan)
        known = [histories(self._tokens(chunk)) for chunk in plan.chunks]
        self._write(plan, known)
        outputs = [self._compute(*pair) for pair in zip(plan.chunks, known, strict=True)]
        return StepOutput(
            tuple(o[0] for o in outputs), tuple(o[1] for o in outputs), self._pool(plan, known)
        )

    def _pool(self, plan: StepPlan, known: list[list[int]]) -> Pooled:
        pairs = zip(plan.chunks, known, strict=True)
        states = [hidden_state(h) for chunk, history in pairs for h in history[chunk.start :]]
        pooled = pool(plan.chunks, torch.tensor(states).unsqueeze(1))()
        assert plan.pools or not pooled
        return pooled

    def _check_limits(self, plan: StepPlan) -> None:
        assert 0 < plan.num_tokens <= self.config.max_num_tokens
        assert plan.num_tokens == sum(chunk.num_tokens for chunk in plan.chunks)
        assert len({chunk.sequence for chunk in plan.chunks}) == len(plan.chunks)
        drafted = sum(len(chunk.drafts) for chunk in plan.chunks)
        assert len(plan.chunks) + drafted <= self.config.max_num_seqs
        rows = sum(c.num_logit_rows - c.samples - len(c.drafts) for c in plan.chunks)
        assert rows <= self.config.max_logit_rows

    def _copy_blocks(self, plan: StepPlan) -> None:
        targets = [copy.target for copy in plan.copies]
        assert len(set(targets)) == len(targets)
        assert not set(targets) & {copy.source for copy in plan.copies}
        for source, target in plan.copies:
            for offset in range(self.block_size):
                self.kv[target * self.block_size + offset] = self.kv.get(
                    source * self.block_size + offset, 0
                )

    def _tokens(self, chunk: ScheduledChunk) -> list[int]:
        """The sequence's tokens up to the chunk's end; the last may be known to the device only."""
        end = chunk.start + chunk.num_tokens
        tokens = chunk.sequence.token_ids[: end - len(chunk.drafts)] + list(chunk.drafts)
        if len(tokens) < end:
            assert chunk.num_tokens == 1
            tokens.append(self._sampled[chunk.sequence, end - 1])
        assert len(tokens) == end
        return tokens

    def _slot(self, chunk: ScheduledChunk, position: int) -> int:
        block = chunk.block_table[position // self.block_size]
        return block * self.block_size + position % self.block_size

    def _write(self, plan: StepPlan, known: list[list[int]]) -> None:
        written = set()
        for chunk, history in zip(plan.chunks, known, strict=True):
            for position in range(chunk.start, chunk.start + chunk.num_tokens):
                slot = self._slot(chunk, position)
                assert slot not in written, f"slot {slot} is written twice in step {plan.step}"
                written.add(slot)
                self.kv[slot] = history[position]

    def _compute(
        self, chunk: ScheduledChunk, history: list[int]
    ) -> tuple[tuple[SampledToken, ...], tuple[Logprob, ...]]:
        request, end = chunk.sequence.request, chunk.start + chunk.num_tokens
        window = self.config.window
        for position in range(max(0, chunk.start - window + 1) if window else 0, end):
            assert self.kv[self._slot(chunk, position)] == history[position], (
                f"{chunk} reads another history at position {position}"
            )
        logprobs: tuple[Logprob, ...] = ()
        if request.params.prompt_logprobs is not None and chunk.num_logit_rows == chunk.num_tokens:
            following = request.prompt_token_ids[chunk.start + 1 : end + 1]
            pairs = zip(history[chunk.start :], following, strict=False)
            logprobs = tuple(prompt_logprob(*pair) for pair in pairs)
        if not chunk.samples:
            return (), logprobs
        assert chunk.num_logit_rows >= 1
        if chunk.sequence.beams is not None:
            return (beam_candidates(history[-1], request),), logprobs
        known = end - len(chunk.drafts)
        assert chunk.output_index == known - len(request.prompt_token_ids)
        tokens = []
        for count, draft in enumerate((*chunk.drafts, None)):
            token = next_token(history[known + count - 1], request, chunk.output_index + count)
            tokens.append(SampledToken(token))
            if token != draft:
                break
        if not chunk.drafts:
            self._sampled[chunk.sequence, end] = tokens[0].token_id
        return tuple(tokens), logprobs


class Oracle:
    """A speculator that knows what comes, and is right about so many tokens at a time."""

    def __init__(self, rights: list[int]) -> None:
        self._rights = deque(rights)

    def can_pay(self, num_sequences: int) -> bool:
        return True

    def draft(self, sequence: Sequence, num_sequences: int, num_rows: int, room: int) -> list[int]:
        self._rights.rotate(-1)
        request, tokens, drafts = sequence.request, list(sequence.token_ids), []
        for count in range(min(room, 4)):
            output_index = len(tokens) - len(request.prompt_token_ids)
            token = next_token(histories(tokens)[-1], request, output_index)
            if count >= self._rights[0]:
                token = (token + 1) % VOCAB_SIZE
            tokens.append(token)
            drafts.append(token)
        return drafts


class Simulation:
    """Scheduler, pool and fake runner in a loop of depth 0 (as on the CPU) or 1 (as on a GPU)."""

    def __init__(
        self,
        *,
        num_blocks: int = 64,
        block_size: int = 4,
        depth: int = 0,
        runs_late: bool = False,
        prefix_caching: bool = True,
        speculator=None,
        **limits,
    ) -> None:
        limits = {"max_num_seqs": 8, "max_num_tokens": 32, "max_model_len": 64, **limits}
        config = SchedulerConfig(eos_token_ids=frozenset({EOS}), **limits)
        self.cache = PrefixCache(block_size, window=config.window, enabled=prefix_caching)
        self.pool = BlockPool(num_blocks, block_size, self.cache)
        self.scheduler = Scheduler(config, self.pool, self.cache, speculator)
        self.runner = FakeRunner(config, block_size)
        self.depth = depth
        self.runs_late = runs_late
        """At depth 1: a step runs only after the update of the one before, as late as it may."""
        self.in_flight: deque[tuple[StepPlan, list[StepOutput]]] = deque()
        self.deltas: dict[str, list[Delta]] = {}

    def step(self) -> StepPlan | None:
        """One turn of the loop."""
        plan = self.scheduler.schedule()
        self.scheduler.check_integrity()
        if plan is not None:
            self.in_flight.append((plan, []))
            if not (self.depth and self.runs_late):
                self._run_last()
        if self.in_flight and (plan is None or len(self.in_flight) > self.depth):
            self._update()
        if plan is not None and self.depth and self.runs_late:
            self._run_last()
        return plan

    def run(self, max_steps: int = 1000) -> None:
        """Until everything has finished; that it takes so few steps is the check for starvation."""
        for _ in range(max_steps):
            if not self.scheduler.has_work:
                break
            self.step()
        assert not self.scheduler.has_work, f"not done after {max_steps} steps"
        while self.in_flight:
            self._update()
        assert self.pool.num_free_blocks == self.pool.num_blocks

    def result(self, request_id: str) -> tuple[tuple[int, ...], FinishReason | None, tuple]:
        """What its deltas add up to, in the form of `generate_alone`."""
        first, *rest = deltas = self.deltas[request_id]
        assert not any(d.prompt_logprobs or d.num_cached_tokens for d in rest)
        assert not any(d.finish_reason for d in deltas[:-1])
        tokens = tuple(token for d in deltas for token in d.token_ids)
        last = deltas[-1]
        stopped = last.finish_reason is FinishReason.STOP
        assert last.stop_token_id == (tokens[-1] if stopped else None)
        return tokens, last.finish_reason, first.prompt_logprobs

    def embedding(self, request_id: str) -> float:
        """What its only delta has."""
        [delta] = self.deltas[request_id]
        assert delta.finish_reason is FinishReason.STOP
        assert not delta.token_ids
        [value] = np.frombuffer(delta.embedding, np.float32)
        return float(value)

    def _run_last(self) -> None:
        plan, outputs = self.in_flight[-1]
        outputs.append(self.runner.execute(plan))

    def _update(self) -> None:
        plan, [output] = self.in_flight.popleft()
        for delta in self.scheduler.update(plan, output):
            self.deltas.setdefault(delta.request_id, []).append(delta)
        self.scheduler.check_integrity()
