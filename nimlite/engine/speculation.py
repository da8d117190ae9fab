"""Speculative decoding: how many tokens to guess, so that it pays.

A step that computes a guess beside a sequence's next token tells whether the guess was right, for
the token behind it is sampled as ever: with the same random number, from the same logits. So what
is sampled never depends on the guesses; they only decide how many steps it takes. (Of a guess that
is no matter of chance this is the rejection sampling of Leviathan et al., 2023: it is accepted with
the probability that the model gives it, and else replaced by a draw from the others.)

Guesses cost time. What they gain follows from two things that are measured: how often a sequence's
guesses come true, whether they were computed or not, and what a step costs by its rows.
"""

import itertools
from collections import deque
from collections.abc import Iterator
from collections.abc import Sequence as Tokens
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nimlite.engine.ngram import NgramLookup
from nimlite.engine.sequence import Sequence

if TYPE_CHECKING:
    from nimlite.engine.plan import SampledToken

_FORGET = 0.85
"""What a sequence's earlier guesses weigh after one more."""
_PRIOR_TRIALS, _PRIOR_RATE = 2.0, 0.6
"""A new sequence's guesses are taken for right so often, as if so many had been seen."""
_NUM_TIMES = 16
"""Latest steps of each number of rows."""
_LEAST_TIMES = 3
"""Steps of a number of rows before it counts as known."""
_TRUSTED = 512
"""Steps after which a time that was not measured again is forgotten: things may have changed."""
_MARGIN = 1.1
"""A guess must gain so many times what it costs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculation:
    """How an engine guesses."""

    num_tokens: int = 8
    """That a step guesses for one sequence at most."""


def accepted(drafts: Tokens[int], sampled: Tokens["SampledToken"]) -> "tuple[SampledToken, ...]":
    """What counts of the tokens sampled in place of each draft and behind the last: those that came
    as guessed, and the one after them."""
    num_right = 0
    for draft, token in zip(drafts, sampled, strict=False):
        if token.token_id != draft:
            break
        num_right += 1
    return tuple(sampled[: num_right + 1])


class StepCosts:
    """What a step of so many rows takes, in seconds.

    Of each number of rows the shortest of the latest times: on a machine that does other things,
    too, the others say more about these. More rows never take less, so that one long step can't
    stand in the way of those that have fewer.
    """

    def __init__(self) -> None:
        self._num_observed = 0
        self._times: dict[int, deque[float]] = {}
        self._observed: dict[int, int] = {}
        self._curve: list[float] = []
        """By the number of rows, up to the largest that is known."""

    def observe(self, num_rows: int, seconds: float) -> None:
        """A step has been timed."""
        self._num_observed += 1
        self._times.setdefault(num_rows, deque(maxlen=_NUM_TIMES)).append(seconds)
        self._observed[num_rows] = self._num_observed
        for rows in [n for n, at in self._observed.items() if at < self._num_observed - _TRUSTED]:
            del self._times[rows], self._observed[rows]
        self._curve = list(self._interpolated())

    def __call__(self, num_rows: int) -> float:
        """Between two that are known, on the line; outside, as the nearest: whatever is not known
        looks cheap, so that it gets measured. 0 where nothing is known."""
        curve = self._curve
        return curve[min(num_rows, len(curve) - 1)] if curve else 0.0

    def _interpolated(self) -> Iterator[float]:
        """Row by row, from 0 on."""
        least, known = float("inf"), []
        for rows in sorted(self._times, reverse=True):
            if len(self._times[rows]) < _LEAST_TIMES:
                continue
            least = min(least, *self._times[rows])
            known.append((rows, least))
        if not known:
            return
        known.reverse()
        yield from [known[0][1]] * known[0][0]
        for (rows, seconds), (next_rows, next_seconds) in itertools.pairwise(known):
            step = (next_seconds - seconds) / (next_rows - rows)
            yield from (seconds + i * step for i in range(next_rows - rows))
        yield known[-1][1]


class Drafts:
    """One sequence's guesses, and how they fare."""

    __slots__ = ("_guessed", "_hits", "_lookup", "_right", "_trials")

    def __init__(self) -> None:
        self._lookup = NgramLookup()
        self._guessed: tuple[int, ...] = ()
        self._right = _PRIOR_TRIALS * _PRIOR_RATE
        self._trials = _PRIOR_TRIALS
        self._hits = _PRIOR_RATE

    @property
    def rate(self) -> float:
        """How often the next guess is right, where the ones before it were."""
        return self._right / self._trials

    @property
    def promises(self) -> bool:
        """Whether most of the time there is a guess, and its first token is right."""
        return self._hits > 0.5

    def guess(self, token_ids: Tokens[int], count: int) -> tuple[int, ...]:
        """Up to `count` tokens that may follow. The guess before is judged by what has come."""
        lookup = self._lookup
        is_followed, come = lookup.num_tokens > 0, token_ids[lookup.num_tokens :]
        lookup.extend(come)
        if is_followed and come:
            self._judge(come)
        self._guessed = lookup.guess(count)
        return self._guessed

    def _judge(self, come: Tokens[int]) -> None:
        """Whether it was computed or not: all of it that there is something to compare with."""
        is_hit = self._guessed[:1] == (come[0],)
        self._hits += (1 - _FORGET) * (is_hit - self._hits)
        for guess, token_id in zip(self._guessed, come, strict=False):
            self._trials = _FORGET * self._trials + 1
            self._right *= _FORGET
            if guess != token_id:
                break
            self._right += 1


class Speculator:
    """Decides for a scheduler which tokens to guess, and how many."""

    def __init__(self, config: Speculation) -> None:
        self._config = config
        self._costs = StepCosts()

    def observe(self, num_rows: int, seconds: float) -> None:
        """A step of decodes and guesses took so long."""
        self._costs.observe(num_rows, seconds)

    def can_pay(self, num_sequences: int) -> bool:
        """Whether guesses that are always right would be worth their rows, in a step that has a
        token for each of so many sequences."""
        return _MARGIN * self._price(num_sequences, num_sequences, 1) < 1

    def promises(self, sequence: Sequence) -> bool:
        """Whether it is worth to know the sequence's next token before the next step is planned."""
        limit = self._limit(sequence)
        if not limit:
            return False
        if sequence.drafts is None:
            sequence.drafts = Drafts()
        sequence.drafts.guess(sequence.token_ids, limit)
        return sequence.drafts.promises

    def draft(self, sequence: Sequence, num_sequences: int, num_rows: int, room: int) -> list[int]:
        """What to guess for a sequence whose tokens are all known, `room` tokens at the most, in a
        step that has a token for each of `num_sequences`, and `num_rows` rows by now."""
        limit = self._limit(sequence)
        if not limit:
            return []
        if sequence.drafts is None:
            sequence.drafts = Drafts()
        guessed = sequence.drafts.guess(sequence.token_ids, limit)
        count = self._best_count(
            min(len(guessed), room), sequence.drafts.rate, num_sequences, num_rows
        )
        drafts = []
        for token_id in guessed[:count]:
            if token_id in sequence.stop_token_ids or token_id in sequence.end_token_ids:
                break
            drafts.append(token_id)
        return drafts

    def _limit(self, sequence: Sequence) -> int:
        if sequence.pooling is not None:  # nothing comes behind its text
            return 0
        wanted, most = sequence.request.num_speculative_tokens, self._config.num_tokens
        return most if wanted is None else min(wanted, most)

    def _best_count(self, limit: int, rate: float, num_sequences: int, num_rows: int) -> int:
        """The number of guesses whose tokens, as many as are expected, exceed most what could be
        had for their time without them."""
        best, best_gain, expected, chance = 0, 0.0, 0.0, 1.0
        for count in range(1, limit + 1):
            chance *= rate
            expected += chance
            gain = expected - _MARGIN * self._price(num_sequences, num_rows, count)
            if gain > best_gain:
                best, best_gain = count, gain
        return best

    def _price(self, num_sequences: int, num_rows: int, count: int) -> float:
        """Of `count` further rows: the tokens that steps without guesses give in their time."""
        seconds = self._costs(num_sequences)
        if not seconds:
            return 0.0
        further = self._costs(num_rows + count) - self._costs(num_rows)
        return num_sequences * max(0.0, further) / seconds
