"""Thoughts of at most so many tokens: where they go on, they are ended, and the answer begins.

The engine knows nothing of it. The sequence ends with its budget and goes on as another, whose
prompt is all that there is so far: the prefix cache has it.
"""

import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from nimlite.engine.request import Delta, FinishReason, Request
from nimlite.server.state import EngineClient


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingBudget:
    """How long a model may think."""

    num_tokens: int
    end_ids: tuple[int, ...]
    """The tokens that end its thoughts."""

    async def generate(
        self,
        engine: EngineClient,
        requests: Sequence[Request],
        is_thinking: Callable[[str], bool],
    ) -> AsyncGenerator[list[Delta], None]:
        """As `engine.generate`. `is_thinking` tells it of a request by its id, as of the last delta
        that was yielded."""
        written: dict[str, list[int]] = {request.id: [] for request in requests}
        unfinished: dict[str, Request] = {}
        of_id = {request.id: request for request in requests}
        async with contextlib.aclosing(
            _generate(engine, map(self._beginning, requests))
        ) as batches:
            async for deltas in batches:
                for index, delta in enumerate(deltas):
                    request = of_id[delta.request_id]
                    written[request.id].extend(delta.token_ids)
                    if self._is_interim(delta, request):
                        unfinished[request.id] = request
                        deltas[index] = delta._replace(finish_reason=None)
                yield deltas
        rest: list[Request] = []
        for request in unfinished.values():
            ending = self.end_ids if is_thinking(request.id) else ()
            goes_on = _continued(request, (*written[request.id], *ending))
            if goes_on is not None:
                rest.append(goes_on)
                yield [Delta(request.id, ending)]
            else:
                yield [Delta(request.id, finish_reason=FinishReason.LENGTH)]
        if rest:
            async with contextlib.aclosing(_generate(engine, rest)) as batches:
                async for deltas in batches:
                    # Nothing of what was found cached was the client's own prompt.
                    yield [delta._replace(num_cached_tokens=0) for delta in deltas]

    def _beginning(self, request: Request) -> Request:
        params = request.params
        limited = dataclasses.replace(
            params,
            max_tokens=min(params.max_tokens, self.num_tokens),
            min_tokens=min(params.min_tokens, self.num_tokens),
        )
        return dataclasses.replace(request, params=limited)

    def _is_interim(self, delta: Delta, request: Request) -> bool:
        is_at_limit = delta.finish_reason is FinishReason.LENGTH
        return is_at_limit and request.params.max_tokens > self.num_tokens


def _generate(
    engine: EngineClient, requests: Iterable[Request]
) -> AsyncGenerator[list[Delta], None]:
    return cast(AsyncGenerator[list[Delta], None], engine.generate(list(requests)))


def _continued(request: Request, written: tuple[int, ...]) -> Request | None:
    """The request behind what it has written; None where that was all."""
    params = request.params
    if len(written) >= params.max_tokens:
        return None
    rest = dataclasses.replace(
        params,
        max_tokens=params.max_tokens - len(written),
        min_tokens=max(0, params.min_tokens - len(written)),
    )
    token_ids = (*request.prompt_token_ids, *written)
    # Samples of one prompt no longer have one.
    return dataclasses.replace(
        request,
        prompt_token_ids=token_ids,
        num_written=len(written),
        params=rest,
        group=None,
    )
