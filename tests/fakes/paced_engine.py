"""An engine that computes nothing: every running request gets a token every so often."""

import dataclasses
import time
from collections.abc import Sequence

from nimlite.engine.limits import RequestLimits
from nimlite.engine.request import Delta, EngineStats, FinishReason, Request
from nimlite.engine.wire import Prepared
from nimlite.observe.progress import Progress


class PacedEngine:
    """As `engine.engine.Engine` to its loop. `period_s`: from the start of a step to the next, of
    which the interpreter is busy for `busy_s`."""

    def __init__(self, period_s: float, tokens: Sequence[int] = (0,), busy_s: float = 0.0) -> None:
        self.limits = RequestLimits(max_model_len=1 << 20, num_blocks=1 << 20, block_size=16)
        self.stats = EngineStats()
        self._period_s = period_s
        self._tokens = tokens
        self._busy_s = busy_s
        self._left: dict[str, int] = {}
        self._next_s = 0.0

    @property
    def has_work(self) -> bool:
        return bool(self._left)

    def on_loss(self, tell: object) -> None:
        """It has no ranks."""

    def add(self, request: Request) -> None:
        self._left[request.id] = request.params.max_tokens

    def abort(self, request_id: str) -> None:
        self._left.pop(request_id, None)

    def step(self) -> list[Delta]:
        self._next_s = max(self._next_s, time.monotonic())
        time.sleep(max(0.0, self._next_s - time.monotonic()))
        self._next_s += self._period_s
        until = time.monotonic() + self._busy_s
        while time.monotonic() < until:
            pass
        token = (self._tokens[self.stats.num_steps % len(self._tokens)],)
        deltas = []
        for request_id, left in list(self._left.items()):
            self._left[request_id] = left - 1
            if left == 1:
                del self._left[request_id]
            deltas.append(
                Delta(request_id, token, finish_reason=FinishReason.LENGTH if left == 1 else None)
            )
        self.stats = dataclasses.replace(
            self.stats, num_steps=self.stats.num_steps + 1, num_running=len(self._left)
        )
        return deltas


def paced(period_s: float, tokens: Sequence[int], busy_s: float, progress: Progress) -> Prepared:
    with progress.task("Wind up", 2, "turns") as task:
        task.advance(2)
    return Prepared(PacedEngine(period_s, tokens, busy_s))
