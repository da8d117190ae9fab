"""Is a fast engine right? Its choices beside an exact model's, whatever else runs beside them.

An engine is judged by its greedy tokens: where it differs from what is expected, the exact model
says how near the two tokens were, given the same beginning. A near tie may fall either way; a
mistake (a block mixed up, a length wrong) is far from one.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from nimlite.engine.engine import Engine
from nimlite.engine.request import FinishReason, Request, SamplingParams

Tokens = Sequence[int]
Gap = Callable[[Tokens, int], float]
"""(beginning, token): by how much the exact model's best logit exceeds the token's, in standard
deviations of its logits there. 0: the token is the best one."""


def gap_of(logits: Callable[[Tokens], torch.Tensor]) -> Gap:
    """A `Gap` from a function that gives the exact logits_V after a beginning."""

    def gap(beginning: Tokens, token: int) -> float:
        logits_V = logits(beginning).float()
        return float((logits_V.max() - logits_V[token]) / logits_V.std())

    return gap


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Greedy tokens beside expected ones, up to the first difference of each answer (after it the
    two go on from different beginnings)."""

    num_answers: int
    num_equal: int
    num_positions: int
    """Compared; each differing answer ends with one that differs."""
    largest_gap: float
    """Of the differences: how far from a tie the exact model has the engine's token."""

    @property
    def share(self) -> float:
        """Of the positions, those with equal tokens."""
        return 1 - (self.num_answers - self.num_equal) / max(1, self.num_positions)

    def __str__(self) -> str:
        return (
            f"{self.num_equal} of {self.num_answers} answers equal, "
            f"{100 * self.share:.2f} % of {self.num_positions} positions, "
            f"largest gap {self.largest_gap:.3f} sigma"
        )


def agreement(
    prompts: Sequence[Tokens],
    found: Sequence[Tokens],
    expected: Sequence[Tokens],
    gap: Gap | None = None,
) -> Agreement:
    """`found` may be shorter than `expected` (it was cut or cancelled). Without `gap` the largest
    one is not measured (0)."""
    num_equal, num_positions, gaps = 0, 0, [0.0]
    for prompt, some, all_of_it in zip(prompts, found, expected, strict=True):
        first = next((i for i, (a, b) in enumerate(zip(some, all_of_it)) if a != b), None)  # noqa: B905
        if first is None:
            num_equal += 1
            num_positions += len(some)
            continue
        num_positions += first + 1
        if gap is not None:
            beginning = [*prompt, *all_of_it[:first]]
            gaps.append(max(gap(beginning, some[first]), gap(beginning, all_of_it[first])))
    return Agreement(
        num_answers=len(found),
        num_equal=num_equal,
        num_positions=num_positions,
        largest_gap=max(gaps),
    )


def greedy(engine: Engine, prompts: Sequence[Tokens], max_tokens: int) -> list[tuple[int, ...]]:
    """The answers of all prompts, run together, each of exactly `max_tokens` tokens."""
    params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
    return [answer.token_ids for answer in engine.generate(prompts, params)]


def invariance(
    engine: Engine, prompts: Sequence[Tokens], max_tokens: int, crowd: int, gap: Gap | None = None
) -> Agreement:
    """Each prompt alone, and all of them together with others until `crowd` run at once."""
    alone = [greedy(engine, [prompt], max_tokens)[0] for prompt in prompts]
    rng = random.Random(0)
    others = [
        [rng.randrange(engine.spec.vocab_size) for _ in range(rng.randrange(1, 200))]
        for _ in range(crowd - len(prompts))
    ]
    together = greedy(engine, [*prompts, *others], max_tokens)[: len(prompts)]
    return agreement(prompts, together, alone, gap)


@dataclass(frozen=True, slots=True, kw_only=True)
class Soak:
    """What many requests with random lengths and cancels left behind."""

    num_finished: int
    num_cancelled: int
    agreement: Agreement
    """Of the answers, whole or cut off, with those of the same prompts before."""
    num_leaked_blocks: int
    grown_bytes: int
    """Device memory in use after, beyond that after the first tenth."""
    num_preemptions: int

    def __str__(self) -> str:
        return (
            f"{self.num_finished} finished, {self.num_cancelled} cancelled, "
            f"{self.num_preemptions} preemptions; {self.agreement}; leaked blocks: "
            f"{self.num_leaked_blocks}, grown memory: {self.grown_bytes} bytes"
        )


def soak(
    engine: Engine,
    prompts: Sequence[Tokens],
    max_tokens: int,
    *,
    num_requests: int,
    num_in_flight: int,
    gap: Gap | None = None,
) -> Soak:
    """Requests for random prompts and lengths, a fifth of them cancelled at a random moment; each
    answer is compared with the one that its prompt had at first."""
    expected = greedy(engine, prompts, max_tokens)
    run = _Soak(engine, prompts, max_tokens)
    for share in (0.1, 1.0):
        run.send(round(num_requests * share), num_in_flight)
        if share < 1:
            before = _used_bytes()
    stats = engine.stats
    return Soak(
        num_finished=run.num_finished,
        num_cancelled=run.num_cancelled,
        agreement=agreement(
            [prompts[i] for i, _ in run.answers],
            [answer for _, answer in run.answers],
            [expected[i] for i, _ in run.answers],
            gap,
        ),
        num_leaked_blocks=stats.num_blocks - stats.num_free_blocks,
        grown_bytes=_used_bytes() - before,
        num_preemptions=stats.num_preemptions,
    )


class _Soak:
    """The requests of one soak, sent in several goes."""

    def __init__(self, engine: Engine, prompts: Sequence[Tokens], max_tokens: int) -> None:
        self._engine = engine
        self._prompts = prompts
        self._max_tokens = max_tokens
        self._rng = random.Random(0)
        self._num_sent = 0
        self._live: dict[str, tuple[int, list[int]]] = {}
        self.answers: list[tuple[int, list[int]]] = []
        self.num_finished = 0
        self.num_cancelled = 0

    def send(self, upto: int, num_in_flight: int) -> None:
        """Until `upto` requests have been sent in all, and each has ended."""
        while self._num_sent < upto or self._engine.has_work:
            while self._num_sent < upto and len(self._live) < num_in_flight:
                self._add()
            for delta in self._engine.step():
                if delta.request_id in self._live:
                    self._live[delta.request_id][1].extend(delta.token_ids)
                    if delta.finish_reason is not None:
                        assert delta.finish_reason is FinishReason.LENGTH, delta
                        self._end(delta.request_id)
                        self.num_finished += 1
            if self._live and self._rng.random() < 0.2 * num_in_flight / self._max_tokens:
                victim = self._rng.choice(list(self._live))
                self._engine.abort(victim)
                self._end(victim)
                self.num_cancelled += 1
        assert not self._live, "a request has never ended"

    def _add(self) -> None:
        index = self._rng.randrange(len(self._prompts))
        request_id = f"soak-{self._num_sent}"
        self._num_sent += 1
        params = SamplingParams(
            temperature=0.0, max_tokens=self._rng.randint(1, self._max_tokens), ignore_eos=True
        )
        prompt = tuple(self._prompts[index])
        self._live[request_id] = (index, [])
        self._engine.add(Request(id=request_id, prompt_token_ids=prompt, params=params))

    def _end(self, request_id: str) -> None:
        self.answers.append(self._live.pop(request_id))


def _used_bytes() -> int:
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
