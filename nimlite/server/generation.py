"""One HTTP request in the engine: prompts and samples as sequences, deltas as pieces of text."""

import contextlib
import dataclasses
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import cast

from nimlite.engine.request import BeamSearch, Delta, FinishReason, Grammar, Request, SamplingParams
from nimlite.errors import EngineDeadError, NimliteError, RequestError
from nimlite.observe.metrics import SequenceTimes, ServerMetrics
from nimlite.server.best_of import best_places
from nimlite.server.choice import Choice, Piece, Prompt
from nimlite.server.detokenizer import TextOptions
from nimlite.server.output_parser import OutputParser
from nimlite.server.state import ServedModel
from nimlite.server.thinking_budget import ThinkingBudget
from nimlite.server.usage import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What one request asks of the engine."""

    id: str
    prompts: tuple[Prompt, ...]
    n: int
    """Answers to each prompt."""
    best_of: int = 1
    """Samples that are drawn for each, if these are more."""
    beam_search: BeamSearch | None = None
    params: SamplingParams
    text: TextOptions
    new_parser: Callable[[], OutputParser | None] = lambda: None
    """One for each choice: what takes its text apart."""
    thinking_budget: ThinkingBudget | None = None
    grammar: Grammar | None = None
    echo: bool = False
    priority: int = 0
    user: str = ""
    """Whom the body names."""
    client: str = ""
    """Whose it is, where clients share the engine."""
    weight: float = 1.0
    cache_salt: str = ""
    num_speculative_tokens: int | None = None

    @property
    def num_sequences(self) -> int:
        """For each prompt."""
        return max(self.n, self.best_of)


class Generation:
    """The sequences of one job. `pieces` may be iterated once."""

    def __init__(self, job: Job, model: ServedModel, metrics: ServerMetrics) -> None:
        self._job = job
        self._engine = model.engine
        self._metrics = metrics
        self._choices: dict[str, Choice] = {}
        self._requests: list[Request] = []
        self._arrived = time.monotonic()
        self._first_token: dict[str, float] = {}
        self._logprobs: defaultdict[str, float] = defaultdict(float)
        """Of each sequence, summed up."""
        for index in range(len(job.prompts) * job.num_sequences):
            self._add_sequence(index, model)

    def usage(self) -> Usage:
        """As of now."""
        choices = list(self._choices.values())
        of_prompts = choices[:: self._job.num_sequences]
        return Usage(
            num_prompt_tokens=sum(len(choice.prompt.token_ids) for choice in of_prompts),
            num_cached_tokens=sum(choice.num_cached_tokens for choice in of_prompts),
            num_completion_tokens=sum(choice.num_tokens for choice in choices),
            num_thought_tokens=sum(choice.num_thought_tokens for choice in choices),
        )

    async def joined_pieces(self) -> list[Piece]:
        """All of `pieces`, one a choice."""
        async with contextlib.aclosing(self.pieces()) as arriving:
            found = [piece async for batch in arriving for piece in batch]
        pieces = sorted(Piece.join_by_choice(found), key=lambda piece: piece.choice)
        return pieces if self._job.num_sequences == self._job.n else self._best(pieces)

    async def pieces(self) -> AsyncGenerator[list[Piece], None]:
        """What becomes certain, as it does, one piece a choice at a time; each choice ends with a
        piece that has a finish reason.

        Raises what the engine raises. Closing it ends the sequences under way.
        """
        unfinished = set(self._choices)
        try:
            async with contextlib.aclosing(self._deltas()) as batches:
                async for deltas in batches:
                    pieces, error = self._feed_all(deltas, unfinished)
                    if pieces:
                        yield pieces
                    if error is not None:
                        raise error
                    if not unfinished:
                        return
            raise EngineDeadError("The engine ended the request before its answer was complete.")
        finally:
            self._observe_end(unfinished)

    def _best(self, pieces: Sequence[Piece]) -> list[Piece]:
        """Of all samples those that are returned, with the places that they have there."""
        n, num_sequences = self._job.n, self._job.num_sequences
        means = [
            self._logprobs[request_id] / max(1, choice.num_tokens)
            for request_id, choice in self._choices.items()
        ]
        found: list[Piece] = []
        for first in range(0, len(pieces), num_sequences):
            for place in best_places(means[first : first + num_sequences], n):
                found.append(pieces[first + place]._replace(choice=len(found)))
        return found

    def _add_sequence(self, index: int, model: ServedModel) -> None:
        job = self._job
        prompt_index, sample = divmod(index, job.num_sequences)
        prompt = job.prompts[prompt_index]
        request_id = f"{job.id}-{index}"
        self._choices[request_id] = Choice(
            index=index,
            prompt=prompt,
            token_bytes=model.tokenizer.token_bytes,
            options=job.text,
            parser=job.new_parser(),
            echo=job.echo,
            discards_output=job.params.max_tokens == 0,
        )
        self._requests.append(
            Request(
                id=request_id,
                prompt_token_ids=prompt.token_ids,
                params=_params_of_sample(job, sample),
                priority=job.priority,
                client=job.client,
                weight=job.weight,
                group=f"{job.id}-{prompt_index}" if job.num_sequences > 1 else None,
                cache_salt=job.cache_salt,
                grammar=job.grammar,
                beam_search=job.beam_search,
                num_speculative_tokens=job.num_speculative_tokens,
            )
        )

    def _deltas(self) -> AsyncGenerator[list[Delta], None]:
        if self._job.params.max_tokens == 0 and self._job.params.prompt_logprobs is None:
            return self._nothing_to_compute()
        budget = self._job.thinking_budget
        if budget is not None:
            return budget.generate(
                self._engine, self._requests, lambda id: self._choices[id].is_thinking
            )
        return cast(AsyncGenerator[list[Delta], None], self._engine.generate(self._requests))

    async def _nothing_to_compute(self) -> AsyncGenerator[list[Delta], None]:
        yield [Delta(request.id, finish_reason=FinishReason.LENGTH) for request in self._requests]

    def _feed_all(
        self, deltas: Sequence[Delta], unfinished: set[str]
    ) -> tuple[list[Piece], NimliteError | None]:
        """The pieces, up to an error that ends the whole answer. Strikes off who has finished."""
        found: list[Piece] = []
        error = None
        for delta in deltas:
            if delta.request_id not in unfinished:
                continue
            if delta.finish_reason is not None and (error := self._error_of(delta)):
                break
            piece = self._feed(delta)
            if piece.finish_reason is not None:
                unfinished.discard(delta.request_id)
            if piece.text or not piece.is_empty:
                found.append(piece)
        return (found if len(found) < 2 else Piece.join_by_choice(found)), error

    def _feed(self, delta: Delta) -> Piece:
        choice = self._choices[delta.request_id]
        piece = choice.feed(delta)
        if self._job.num_sequences > self._job.n:
            self._logprobs[delta.request_id] += sum(each.logprob for each in delta.logprobs)
        if delta.token_ids and delta.request_id not in self._first_token:
            self._first_token[delta.request_id] = time.monotonic()
        if choice.stopped_by_text and delta.finish_reason is None:
            self._engine.abort(delta.request_id)
        if piece.finish_reason is not None:
            self._observe_sequence(delta.request_id, piece.finish_reason)
        return piece

    def _error_of(self, delta: Delta) -> NimliteError | None:
        """Where the engine gave the sequence up."""
        match delta.finish_reason:
            case FinishReason.REFUSED:
                grammar = self._job.grammar
                assert delta.error is not None, "a refusal has its reason"
                return RequestError(delta.error, param=grammar.param if grammar else None)
            case FinishReason.ERROR:
                return EngineDeadError(delta.error or "The engine could not complete the request.")
            case FinishReason.ABORT:
                return EngineDeadError("The request was aborted before its answer was complete.")
        return None

    def _observe_sequence(self, request_id: str, reason: FinishReason) -> None:
        times = SequenceTimes(
            arrived=self._arrived,
            first_token=self._first_token.get(request_id),
            finished=time.monotonic(),
            num_generated_tokens=self._choices[request_id].num_tokens,
        )
        self._metrics.observe_sequence(times, reason)

    def _observe_end(self, unfinished: set[str]) -> None:
        for request_id in unfinished:
            self._observe_sequence(request_id, FinishReason.ABORT)
        num_prompt_tokens = sum(len(prompt.token_ids) for prompt in self._job.prompts)
        self._metrics.observe_request(num_prompt_tokens=num_prompt_tokens, succeeded=not unfinished)


def _params_of_sample(job: Job, sample: int) -> SamplingParams:
    """Samples of one prompt must differ even with a seed. The engine always samples a token. The
    best of them are known by their log-probabilities."""
    params = job.params
    seed = None if params.seed is None else (params.seed + sample) % 2**63
    logprobs = params.logprobs
    if logprobs is None and job.num_sequences > job.n:
        logprobs = 0
    return dataclasses.replace(
        params, seed=seed, max_tokens=max(params.max_tokens, 1), logprobs=logprobs
    )
