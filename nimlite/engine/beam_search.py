"""Beam search: the answers that are likeliest as a whole, found along several ways at once.

The rules are those of transformers' `generate(num_beams=…)`, so that both give the same: of all
beams' next tokens the best go on, and those that end a text are kept by their mean log-probability,
or what `length_penalty` makes of it. Among equal scores the earlier beam and the likelier token
come first. No blocks and no steps here: see `beam_group.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from nimlite.engine.request import FinishReason, Logprob, Request


class Continuation(NamedTuple):
    """One more token for one of the beams."""

    beam: int
    """The place of the beam that it continues."""
    logprob: Logprob
    score: float
    """Sum of the log-probabilities, this one included."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A text that has ended."""

    token_ids: tuple[int, ...]
    logprobs: tuple[Logprob, ...]
    score: float
    """The sum of the log-probabilities over length ** length_penalty."""
    finish_reason: FinishReason


class Beams:
    """The texts of one search."""

    def __init__(self, request: Request, stops: frozenset[int]) -> None:
        """`stops`: tokens that end a text, from output index `min_tokens` on."""
        assert request.beam_search is not None
        self._search = request.beam_search
        self._max_tokens = request.params.max_tokens
        self._min_tokens = request.params.min_tokens
        self._stops = stops
        self._running: list[tuple[float, tuple[Logprob, ...]]] = [(0.0, ())]
        self.finished: list[Hypothesis] = []
        """The best of those that have ended, best first."""

    def extend(self, candidates: Sequence[Sequence[Logprob]]) -> list[Continuation]:
        """Each running beam's likeliest next tokens, best first, have come. The beams that run
        from here on, best first: none where the search has ended."""
        width = self._search.width
        length = len(self._running[0][1]) + 1
        forbidden = self._stops if length <= self._min_tokens else frozenset[int]()
        ranked = [
            Continuation(beam, logprob, self._running[beam][0] + logprob.logprob)
            for beam, of_beam in enumerate(candidates)
            for logprob in of_beam
            if logprob.token_id not in forbidden
        ]
        ranked.sort(key=lambda continuation: -continuation.score)
        open_ends: list[Continuation] = []
        for place, continuation in enumerate(ranked[: num_candidates(width, len(self._stops))]):
            reason = self._end(continuation.logprob.token_id, length)
            if reason is None:
                open_ends.append(continuation)
            elif place < width:
                self._keep(continuation, length, reason)
        going_on = open_ends[:width]
        if not going_on or not self._can_improve(going_on[0].score, length):
            return []
        self._running = [(c.score, (*self._running[c.beam][1], c.logprob)) for c in going_on]
        return going_on

    def _end(self, token_id: int, length: int) -> FinishReason | None:
        if token_id in self._stops:
            return FinishReason.STOP
        return FinishReason.LENGTH if length >= self._max_tokens else None

    def _keep(self, ended: Continuation, length: int, reason: FinishReason) -> None:
        logprobs = (*self._running[ended.beam][1], ended.logprob)
        token_ids = tuple(logprob.token_id for logprob in logprobs)
        score = ended.score / length**self._search.length_penalty
        self.finished.append(Hypothesis(token_ids, logprobs, score, reason))
        self.finished.sort(key=lambda hypothesis: -hypothesis.score)
        del self.finished[self._search.width :]

    def _can_improve(self, best_score: float, length: int) -> bool:
        """Whether a running beam may still be better than one that has ended."""
        search = self._search
        if len(self.finished) < search.width:
            return True
        if search.early_stopping is True:
            return False
        if search.early_stopping == "never" and search.length_penalty > 0:
            length = self._max_tokens
        best: float = best_score / length**search.length_penalty
        return best > self.finished[-1].score


def num_candidates(width: int, num_stops: int) -> int:
    """Next tokens to look at: were all stops among them, enough others would be left."""
    return max(2, 1 + num_stops) * width
