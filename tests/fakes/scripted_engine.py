"""An engine that says what a test tells it to, one token a delta (in place of `engine.client`)."""

import asyncio
import struct
import threading
from collections.abc import AsyncGenerator, Callable, Sequence

from nimlite.engine.request import Delta, EngineStats, FinishReason, Logprob, Request
from nimlite.errors import EngineError

Reply = Callable[[Request], Sequence[int]]


class ScriptedEngine:
    """Gives each request the tokens of `reply`, ending with `eos_id` as a model would.

    With `hold()` each further step waits for a `release()`, which may come from any thread.
    """

    def __init__(self, reply: Reply, *, eos_id: int) -> None:
        self._default_reply = reply
        self._eos_id = eos_id
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """As new: nothing held, nothing recorded."""
        self.reply = self._default_reply
        self.outage: EngineError | None = None
        self.current_stats = EngineStats(num_blocks=100, num_free_blocks=75)
        self.refusal: Exception | None = None
        self.failure: str | None = None
        self.batch_size = 1
        """Deltas that come together, as to a reader that lags."""
        self.requests: list[Request] = []
        self.aborted: set[str] = set()
        self.on_abort = threading.Event()
        self.on_held = threading.Event()
        self._num_free_steps: int | None = None
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def hold(self, *, after_steps: int = 0) -> None:
        """Let pass `after_steps` tokens, then wait."""
        self._num_free_steps = after_steps

    def release(self) -> None:
        """Hold no more."""
        with self._lock:
            self._num_free_steps = None
            waiting, self._waiting = self._waiting, []
        for loop, event in waiting:
            loop.call_soon_threadsafe(event.set)

    def stats(self) -> EngineStats:
        return self.current_stats

    def abort(self, request_id: str) -> None:
        self.aborted.add(request_id)
        self.on_abort.set()

    async def generate(self, requests: Sequence[Request]) -> AsyncGenerator[list[Delta], None]:
        if self.refusal is not None:
            raise self.refusal
        self.requests.extend(requests)
        scripts = {request.id: self._script(request) for request in requests}
        batch: list[Delta] = []
        try:
            while scripts:
                for request_id in list(scripts):
                    await self._step()
                    delta = scripts[request_id].pop(0)
                    if request_id in self.aborted:
                        delta = Delta(request_id=request_id, finish_reason=FinishReason.ABORT)
                    if delta.finish_reason is not None:
                        del scripts[request_id]
                    batch.append(delta)
                    if len(batch) == self.batch_size or not scripts:
                        yield batch
                        batch = []
        finally:
            for request_id in scripts:
                self.abort(request_id)

    async def _step(self) -> None:
        with self._lock:
            if self._num_free_steps is None:
                return
            if self._num_free_steps > 0:
                self._num_free_steps -= 1
                return
            waiter = (asyncio.get_running_loop(), asyncio.Event())
            self._waiting.append(waiter)
        self.on_held.set()
        try:
            await waiter[1].wait()
        finally:
            with self._lock:
                if waiter in self._waiting:
                    self._waiting.remove(waiter)

    def _script(self, request: Request) -> list[Delta]:
        params = request.params
        if request.pooling is not None:
            return [self._embedding(request)]
        token_ids = list(self.reply(request))
        if params.ignore_eos:
            token_ids = [token_id for token_id in token_ids if token_id != self._eos_id]
        token_ids = token_ids[: params.max_tokens]
        deltas = [self._delta(request, index, token_ids) for index in range(len(token_ids))]
        if self.failure is not None:
            last = Delta(
                request_id=request.id, finish_reason=FinishReason.ERROR, error=self.failure
            )
            deltas[-1] = last
        return deltas

    def _embedding(self, request: Request) -> Delta:
        """The prompt's length and its last token, and 0, 0."""
        if self.failure is not None:
            return Delta(request.id, finish_reason=FinishReason.ERROR, error=self.failure)
        vector = struct.pack(
            "<4f", len(request.prompt_token_ids), request.prompt_token_ids[-1], 0, 0
        )
        return Delta(request.id, finish_reason=FinishReason.STOP, embedding=vector)

    def _delta(self, request: Request, index: int, token_ids: Sequence[int]) -> Delta:
        params, token_id, is_last = request.params, token_ids[index], index == len(token_ids) - 1
        is_stop = token_id == self._eos_id or token_id in params.stop_token_ids
        reason = FinishReason.STOP if is_stop else FinishReason.LENGTH
        logprobs = () if params.logprobs is None else (logprob(token_id, params.logprobs),)
        prompt_logprobs: tuple[Logprob | None, ...] = ()
        if index == 0 and params.prompt_logprobs is not None:
            of_rest = (logprob(i, params.prompt_logprobs) for i in request.prompt_token_ids[1:])
            prompt_logprobs = (None, *of_rest)
        return Delta(
            request_id=request.id,
            token_ids=(token_id,),
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            finish_reason=reason if is_last else None,
            stop_token_id=token_id if is_last and is_stop else None,
            num_cached_tokens=3 if index == 0 else 0,
        )


def logprob(token_id: int, num_top: int) -> Logprob:
    """A log-probability that depends on the token alone."""
    top = tuple((token_id + i, -0.5 - i) for i in range(num_top))
    return Logprob(token_id=token_id, logprob=-0.5, rank=1, top=top)
