"""Whether one more request is taken: the queue's limit, and those of its key."""

import math
import time
from collections import deque
from collections.abc import Callable

from nimlite.errors import OverloadedError, QuotaError
from nimlite.server.api_keys import Key

Clock = Callable[[], float]
_MAX_RETRY_S = 60


class ServiceRate:
    """How fast requests end, as of the latest: when will there be room for who comes now? Time in
    which none was under way does not count."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self.num_under_way = 0
        self._busy_since = 0.0
        self._busy_before_s = 0.0
        self._ends: deque[float] = deque(maxlen=64)
        """In seconds of work."""
        self._next_room_at = 0.0

    def began(self) -> None:
        if not self.num_under_way:
            self._busy_since = self._clock()
        self.num_under_way += 1

    def ended(self) -> None:
        self._ends.append(self._busy_s())
        self.num_under_way -= 1
        if not self.num_under_way:
            self._busy_before_s = self._ends[-1]

    def retry_after_s(self) -> int:
        """Whole seconds. Each who asks is given the next room, so that they come back one after
        the other, as fast as they can be served."""
        now = self._clock()
        self._next_room_at = max(self._next_room_at, now) + self._period_s()
        self._next_room_at = min(self._next_room_at, now + _MAX_RETRY_S)
        return max(1, math.ceil(self._next_room_at - now))

    def _period_s(self) -> float:
        if not self._ends:
            return 1.0
        return max(self._busy_s() - self._ends[0], 1e-3) / len(self._ends)

    def _busy_s(self) -> float:
        since = self._clock() - self._busy_since if self.num_under_way else 0.0
        return self._busy_before_s + since


class Admission:
    """The requests under way. Only the event loop's thread uses it."""

    def __init__(self, max_waiting: int, clock: Clock = time.monotonic) -> None:
        self._max_waiting = max_waiting
        self._clock = clock
        self._rate = ServiceRate(clock)
        self._usages: dict[str, _Usage] = {}

    def take(self, key: Key, *, num_waiting: int, max_num_seqs: int) -> "Ticket":
        """Raises QuotaError where the key has no more, OverloadedError where the queue is full.

        `num_waiting`: sequences in the engine's queue, as of its last step; what came since is
        known here."""
        usage = self._usages.setdefault(key.name, _Usage(key, self._clock))
        usage.check()
        num_waiting = max(num_waiting, self._rate.num_under_way - max_num_seqs)
        if num_waiting >= self._max_waiting:
            error = OverloadedError(
                f"The server is overloaded: {num_waiting} requests are waiting and the limit is "
                f"{self._max_waiting}. Try again in a moment."
            )
            error.retry_after_s = self._rate.retry_after_s()
            raise error
        self._rate.began()
        usage.num_in_flight += 1
        return Ticket(lambda num_tokens: self._release(usage, num_tokens))

    def _release(self, usage: "_Usage", num_tokens: int) -> None:
        usage.num_in_flight -= 1
        usage.charge(num_tokens)
        self._rate.ended()


class Ticket:
    """Leave to be under way, until `release`."""

    def __init__(self, release: Callable[[int], None]) -> None:
        self._release = release

    def release(self, num_tokens: int) -> None:
        """`num_tokens`: of prompts and answers, which count against the key."""
        self._release(num_tokens)


class _Usage:
    """What one key has in flight, and a bucket of tokens that fills by its limit in a minute. What
    a request takes is known when it has ended: the bucket may owe."""

    def __init__(self, key: Key, clock: Clock) -> None:
        self._key = key
        self._clock = clock
        self.num_in_flight = 0
        self._tokens = float(key.tokens_per_minute or 0)
        self._filled_at = clock()

    def check(self) -> None:
        limit = self._key.max_in_flight
        if limit is not None and self.num_in_flight >= limit:
            raise QuotaError(
                f"This API key has {self.num_in_flight} requests under way and may have {limit}: "
                "send the next when one has ended."
            )
        if self._key.tokens_per_minute is not None:
            self._check_tokens(self._key.tokens_per_minute)

    def charge(self, num_tokens: int) -> None:
        self._tokens -= num_tokens

    def _check_tokens(self, per_minute: int) -> None:
        now = self._clock()
        filled = self._tokens + (now - self._filled_at) * per_minute / 60
        self._tokens, self._filled_at = min(filled, float(per_minute)), now
        if self._tokens <= 0:
            error = QuotaError(
                f"This API key has used its {per_minute} tokens a minute: ask again later."
            )
            error.retry_after_s = max(1, math.ceil((1 - self._tokens) * 60 / per_minute))
            raise error
