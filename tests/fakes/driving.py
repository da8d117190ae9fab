"""Requests through an engine, step by step, and what came of each."""

from collections.abc import Iterable
from dataclasses import dataclass

from nimlite.engine.engine import Engine
from nimlite.engine.request import (
    Delta,
    FinishReason,
    Grammar,
    Logprob,
    Request,
    SamplingParams,
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the deltas of one request add up to."""

    token_ids: tuple[int, ...]
    logprobs: tuple[Logprob, ...]
    finish_reason: FinishReason | None
    prompt_logprobs: tuple[Logprob | None, ...] = ()
    num_cached_tokens: int = 0
    error: str | None = None

    @classmethod
    def of(cls, deltas: list[Delta]) -> "Outcome":
        """Only the first may speak of the prompt, and only the last of the end."""
        assert not any(delta.prompt_logprobs or delta.num_cached_tokens for delta in deltas[1:])
        assert not any(delta.finish_reason for delta in deltas[:-1])
        token_ids = tuple(token_id for delta in deltas for token_id in delta.token_ids)
        stopped = deltas[-1].stop_token_id
        assert (stopped is not None) == (deltas[-1].finish_reason is FinishReason.STOP)
        assert stopped is None or stopped == token_ids[-1]
        return cls(
            token_ids=token_ids,
            logprobs=tuple(logprob for delta in deltas for logprob in delta.logprobs),
            finish_reason=deltas[-1].finish_reason,
            prompt_logprobs=deltas[0].prompt_logprobs,
            num_cached_tokens=deltas[0].num_cached_tokens,
            error=deltas[-1].error,
        )


def request(
    request_id: str,
    prompt: Iterable[int],
    *,
    group: str | None = None,
    priority: int = 0,
    grammar: Grammar | None = None,
    **params: object,
) -> Request:
    """Greedy unless `params` says otherwise."""
    return Request(
        id=request_id,
        prompt_token_ids=tuple(prompt),
        params=SamplingParams(**({"temperature": 0.0} | params)),
        group=group,
        priority=priority,
        grammar=grammar,
    )


def drive(engine: Engine, *requests: Request) -> dict[str, Outcome]:
    """All of them together until each has ended. Every block must be free afterwards."""
    for each in requests:
        engine.add(each)
    deltas: dict[str, list[Delta]] = {each.id: [] for each in requests}
    num_idle = 0
    while engine.has_work:
        num_steps = engine.stats.num_steps
        for delta in engine.step():
            deltas[delta.request_id].append(delta)
        # A step may do nothing but take the result of the one before.
        num_idle = num_idle + 1 if engine.stats.num_steps == num_steps else 0
        assert num_idle <= 1, "the engine has work, and does none"
    assert engine.stats.num_free_blocks == engine.stats.num_blocks
    return {request_id: Outcome.of(of_one) for request_id, of_one in deltas.items()}
