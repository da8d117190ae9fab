"""Does an engine answer as it does alone, whatever else runs, ends or is cancelled beside it?

Greedy tokens are compared with those of the same prompt alone, up to the first difference of an
answer (behind it the two go on from different beginnings). A near tie may fall either way where
sums are added in another order; a mistake (a block mixed up, a length wrong) is far from one.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from nimlite.bench.greedy import NEAR_TIE, NUM_TOKENS, PROMPTS, Continuation, continue_all
from nimlite.engine.engine import Engine
from nimlite.engine.request import FinishReason, Request, SamplingParams

_CANCELLED = 0.2
"""Of the requests, about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Answers beside the same prompts' answers alone."""

    num_answers: int
    num_equal: int
    num_positions: int
    """Compared; each differing answer ends with one that differs."""
    largest_gap: float
    """Of the differences: how much likelier (in log-probability) the token alone was held; infinite
    where the other was not among the likeliest."""

    @property
    def share(self) -> float:
        """Of the positions, those with equal tokens."""
        return 1 - (self.num_answers - self.num_equal) / max(1, self.num_positions)

    def __str__(self) -> str:
        tie = "near ties" if self.largest_gap <= NEAR_TIE else "NO NEAR TIES"
        parted = f", {tie} of {self.largest_gap:.4f} at most" if self.largest_gap else ""
        return (
            f"{self.num_equal} of {self.num_answers} answers equal, "
            f"{100 * self.share:.2f} % of {self.num_positions} tokens{parted}"
        )


def agreement(found: Sequence[Sequence[int]], expected: Sequence[Continuation]) -> Agreement:
    """`found` may be shorter than `expected`: it was cut or cancelled."""
    num_equal, num_positions, gaps = 0, 0, [0.0]
    for tokens, alone in zip(found, expected, strict=True):
        pairs = enumerate(zip(tokens, alone.token_ids))  # noqa: B905
        first = next((i for i, (one, two) in pairs if one != two), None)
        if first is None:
            num_equal += 1
            num_positions += len(tokens)
        else:
            num_positions += first + 1
            likely = dict(alone.top[first])
            gaps.append(max(likely.values()) - likely.get(tokens[first], float("-inf")))
    return Agreement(
        num_answers=len(found),
        num_equal=num_equal,
        num_positions=num_positions,
        largest_gap=max(gaps),
    )


def invariance(engine: Engine, alone: Sequence[Continuation], crowd: int) -> Agreement:
    """The prompts together with others, until `crowd` run at once."""
    rng = random.Random(0)
    others = [
        [rng.randrange(engine.spec.vocab_size) for _ in range(rng.randrange(1, 200))]
        for _ in range(crowd - len(alone))
    ]
    prompts = [*(one.prompt_token_ids for one in alone), *others]
    together = continue_all(engine, prompts, len(alone[0].token_ids))[: len(alone)]
    return agreement([one.token_ids for one in together], alone)


@dataclass(frozen=True, slots=True, kw_only=True)
class Soak:
    """What many requests with random lengths and cancels left behind."""

    num_finished: int
    num_cancelled: int
    num_preemptions: int
    agreement: Agreement
    """Of the answers, whole or cut off, with those of their prompts alone."""
    num_leaked_blocks: int
    grown_bytes: int
    """Device memory in use after, beyond that after the first tenth."""

    def __str__(self) -> str:
        return (
            f"{self.num_finished} finished, {self.num_cancelled} cancelled, "
            f"{self.num_preemptions} preemptions; {self.agreement}; "
            f"{self.num_leaked_blocks} blocks leaked, memory grown by {self.grown_bytes} bytes"
        )


def soak(
    engine: Engine, alone: Sequence[Continuation], *, num_requests: int, num_in_flight: int
) -> Soak:
    """Requests for random ones of the prompts and of random lengths, some of them cancelled at a
    random moment."""
    run = _Soak(engine, alone)
    run.send(num_requests // 10, num_in_flight)
    before = _used_bytes()
    run.send(num_requests, num_in_flight)
    stats = engine.stats
    return Soak(
        num_finished=run.num_finished,
        num_cancelled=run.num_cancelled,
        num_preemptions=stats.num_preemptions,
        agreement=agreement(
            [tokens for _, tokens in run.answers], [alone[prompt] for prompt, _ in run.answers]
        ),
        num_leaked_blocks=stats.num_blocks - stats.num_free_blocks,
        grown_bytes=_used_bytes() - before,
    )


class _Soak:
    """The requests of one soak, sent in several goes."""

    def __init__(self, engine: Engine, alone: Sequence[Continuation]) -> None:
        self._engine = engine
        self._alone = alone
        self._longest = len(alone[0].token_ids)
        self._rng = random.Random(0)
        self._num_sent = 0
        self._live: dict[str, tuple[int, list[int]]] = {}
        self.answers: list[tuple[int, list[int]]] = []
        """The number of the prompt, and the tokens."""
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
                        self.answers.append(self._live.pop(delta.request_id))
                        self.num_finished += 1
            if self._live and self._rng.random() < _CANCELLED * num_in_flight / self._longest:
                victim = self._rng.choice(list(self._live))
                self._engine.abort(victim)
                self.answers.append(self._live.pop(victim))
                self.num_cancelled += 1
        assert not self._live, "a request has never ended"

    def _add(self) -> None:
        prompt = self._rng.randrange(len(self._alone))
        request_id = f"soak-{self._num_sent}"
        self._num_sent += 1
        params = SamplingParams(
            temperature=0.0, max_tokens=self._rng.randint(1, self._longest), ignore_eos=True
        )
        self._live[request_id] = prompt, []
        token_ids = self._alone[prompt].prompt_token_ids
        self._engine.add(Request(id=request_id, prompt_token_ids=token_ids, params=params))


def run_soak(
    engine: Engine, tokenizer_file: Path, num_requests: int, num_in_flight: int
) -> Iterator[str]:
    """Lines for people: each of eight texts alone, then in a crowd, then in the soak."""
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    alone = [
        continue_all(engine, [tokenizer.encode(prompt).ids], NUM_TOKENS)[0] for prompt in PROMPTS
    ]
    yield f"in a batch of {num_in_flight}: {invariance(engine, alone, num_in_flight)}"
    found = soak(engine, alone, num_requests=num_requests, num_in_flight=num_in_flight)
    yield f"soak: {found}"


def _used_bytes() -> int:
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
