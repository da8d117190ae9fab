"""POST /v1/embeddings: OpenAI's, with what NIM's endpoint adds to it."""

import base64
import contextlib
import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

import numpy as np
from pydantic import Field
from starlette.types import Receive, Scope, Send

from nimlite.engine.request import Delta, FinishReason, Request, SamplingParams
from nimlite.errors import ContextLengthError, EngineDeadError, RequestError
from nimlite.models.embedding import EmbeddingSpec
from nimlite.observe.metrics import SequenceTimes
from nimlite.server.answer import new_id
from nimlite.server.errors import json_response
from nimlite.server.protocol import MAX_PROMPTS, TokenIds
from nimlite.server.sampling import check_token_ids
from nimlite.server.state import ServedModel, ServerState
from nimlite.server.strict import Strict
from nimlite.server.watched import WatchedResponse

_PURPOSES = {"query": ("query",), "passage": ("passage", "document")}
"""What the prompts of NIM's input types are called in checkpoints."""


class EmbeddingsRequest(Strict):
    """POST /v1/embeddings."""

    model: str
    input: (
        str
        | Annotated[list[str], Field(fail_fast=True)]
        | TokenIds
        | Annotated[list[TokenIds], Field(fail_fast=True)]
    )
    """A text or several, or their token ids."""
    encoding_format: Literal["float", "base64"] | None = None
    """base64: of the numbers as fp32, little-endian."""
    dimensions: Annotated[int, Field(ge=1)] | None = None
    """Keep so many of the first numbers, and make the rest as long as before: for models that are
    trained for it (Matryoshka)."""
    input_type: Annotated[str, Field(max_length=64)] | None = None
    """NIM's "query" or "passage", or the name of one of the model's own prompts: what it puts in
    front of such a text. Without effect where the model has no prompts."""
    truncate: Literal["NONE", "START", "END"] | None = None
    """Where a text that is too long is cut. NONE, the default, refuses it."""
    priority: Annotated[int, Field(ge=-(2**31), lt=2**31)] | None = None
    """Lower runs first."""
    cache_salt: Annotated[str, Field(max_length=256)] | None = None
    """The prefix cache is shared only between requests of equal salt."""
    user: str | None = None
    """Without effect."""


class EmbeddingsAnswer(WatchedResponse):
    """Embeds and sends, until done or until the client goes away."""

    def __init__(self, state: ServerState, body: EmbeddingsRequest) -> None:
        super().__init__(state)
        self._body = body

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        model, ticket = self._state.admit(self._body.model, self.caller, embeds=True)
        num_tokens = 0
        try:
            texts = await encode_inputs(self._body, model)
            num_tokens = sum(map(len, texts))
            raw = await self._embed(texts, model)
            content = _answer(raw, num_tokens, self._body, model.embedding)
            self._is_whole = True
            await json_response(content)(scope, receive, send)
        finally:
            ticket.release(num_tokens)

    async def _embed(
        self, texts: Sequence[tuple[int, ...]], model: ServedModel
    ) -> list[np.ndarray]:
        """As the engine gives them, in the order of `texts`."""
        body, self.answer_id = self._body, new_id("embd")
        requests = [
            Request(
                id=f"{self.answer_id}-{index}",
                prompt_token_ids=token_ids,
                params=SamplingParams(max_tokens=0),
                pooling=model.embedding.pooling,
                priority=body.priority or 0,
                client=self.caller.client(body.user or ""),
                weight=self.caller.key.weight,
                cache_salt=body.cache_salt or "",
            )
            for index, token_ids in enumerate(texts)
        ]
        arrived = time.monotonic()
        found: dict[str, bytes] = {}
        # an async generator: closing it aborts what is left
        batches = cast(Any, model.engine.generate(requests))
        try:
            async with contextlib.aclosing(batches) as arriving:
                async for deltas in arriving:
                    for delta in deltas:
                        found[delta.request_id] = _embedding_of(delta)
                        self._observe(arrived, delta.finish_reason)
        finally:
            for _ in range(len(requests) - len(found)):
                self._observe(arrived, FinishReason.ABORT)
            self._state.metrics.observe_request(
                num_prompt_tokens=sum(map(len, texts)), succeeded=len(found) == len(requests)
            )
        return [np.frombuffer(found[request.id], np.float32) for request in requests]

    def _observe(self, arrived: float, reason: FinishReason | None) -> None:
        assert reason is not None, "an embedding comes with the end of its request"
        times = SequenceTimes(
            arrived=arrived, first_token=None, finished=time.monotonic(), num_generated_tokens=0
        )
        self._state.metrics.observe_sequence(times, reason)


def _answer(
    raw: Sequence[np.ndarray], num_tokens: int, body: EmbeddingsRequest, spec: EmbeddingSpec
) -> dict[str, Any]:
    return {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": _encoded(_shaped(raw_D, body, spec), body),
            }
            for index, raw_D in enumerate(raw)
        ],
        "model": body.model,
        "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
    }


async def encode_inputs(body: EmbeddingsRequest, model: ServedModel) -> list[tuple[int, ...]]:
    """The token ids of each input. Raises RequestError for inputs that are empty, too many or too
    long, and for ids outside the vocabulary."""
    given = _inputs(body)
    if not given or not all(given):
        raise RequestError("'input' must not be empty, and no text in it.", param="input")
    if len(given) > MAX_PROMPTS:
        raise RequestError(
            f"'input' has {len(given)} texts; one request may have {MAX_PROMPTS}.", param="input"
        )
    longest = min(model.embedding.max_tokens or model.max_model_len, model.max_model_len)
    limit = _Limit(longest, body.truncate or "NONE", model.tokenizer.token_bytes.special_ids)
    prompt = _prompt(body, model.embedding)
    if _is_text(body):
        texts = [prompt + text for text in cast(list[str], given)]
        # a text to be cut may have any length
        most = longest if limit.side == "NONE" else sum(map(len, texts))
        encoded = await model.tokenizer.encode(texts, max_tokens=most, param="input")
    else:
        encoded = [tuple(token_ids) for token_ids in cast(list[list[int]], given)]
    cut = [limit.apply(token_ids, index) for index, token_ids in enumerate(encoded)]
    for token_ids in cut:
        check_token_ids(token_ids, model.vocab_size, param="input")
    if not all(cut):
        raise RequestError("'input' has a text without a token.", param="input")
    return cut


class _Limit:
    """The longest text, and what becomes of a longer one."""

    def __init__(self, longest: int, side: str, special_ids: frozenset[int]) -> None:
        self._longest = longest
        self.side = side
        self._special_ids = special_ids

    def apply(self, token_ids: tuple[int, ...], index: int) -> tuple[int, ...]:
        """The special tokens around a text stay. Raises ContextLengthError where nothing may be
        cut."""
        too_many = len(token_ids) - self._longest
        if too_many <= 0:
            return token_ids
        if self.side == "NONE":
            raise ContextLengthError(
                f"This model embeds texts of at most {self._longest} tokens, and input[{index}] has"
                f" {len(token_ids)}. Shorten it, or let 'truncate' be 'END' or 'START'.",
                param="input",
            )
        begin = self._num_special(token_ids)
        end = len(token_ids) - self._num_special(token_ids[::-1])
        if self.side == "START":
            return token_ids[:begin] + token_ids[begin + too_many :]
        return token_ids[: end - too_many] + token_ids[end:]

    def _num_special(self, token_ids: Sequence[int]) -> int:
        """At the beginning, fewer than the longest text has."""
        found = (i for i, token in enumerate(token_ids) if token not in self._special_ids)
        return min(next(found, 0), self._longest - 1)


def _prompt(body: EmbeddingsRequest, spec: EmbeddingSpec) -> str:
    """What comes in front of every text. Raises RequestError for a type that is not known, and
    where token ids leave no place for it."""
    kind = body.input_type
    if kind is None:
        if spec.default_prompt is None:
            return ""
        return spec.prompts.get(spec.default_prompt, "") if _is_text(body) else ""
    if kind not in spec.prompts and kind not in _PURPOSES:
        known = ", ".join(sorted({*spec.prompts, *_PURPOSES}))
        raise RequestError(
            f"'input_type' {kind!r} is not known to this model; known are {known}.",
            param="input_type",
        )
    names = (kind, *_PURPOSES.get(kind, ()))
    prompt = next((spec.prompts[name] for name in names if name in spec.prompts), "")
    if prompt and not _is_text(body):
        raise RequestError(
            "'input_type' puts a prompt in front of a text, and 'input' has token ids: give texts,"
            " or leave it out.",
            param="input_type",
        )
    return prompt


def _inputs(body: EmbeddingsRequest) -> Sequence[str] | Sequence[Sequence[int]]:
    if isinstance(body.input, str):
        return [body.input]
    if body.input and isinstance(body.input[0], int):
        return [body.input]
    return cast(list[str], body.input)


def _is_text(body: EmbeddingsRequest) -> bool:
    return isinstance(body.input, str) or isinstance(body.input[0], str)


def _embedding_of(delta: Delta) -> bytes:
    """Raises where the engine gave the text up."""
    if delta.finish_reason is FinishReason.STOP:
        return delta.embedding
    if delta.finish_reason is FinishReason.REFUSED:
        raise RequestError(delta.error or "The engine refused the request.", param="input")
    raise EngineDeadError(delta.error or "The request was aborted before its answer was complete.")


def _shaped(raw_D: np.ndarray, body: EmbeddingsRequest, spec: EmbeddingSpec) -> np.ndarray:
    """Cut and normalised. Raises RequestError for more dimensions than there are."""
    if body.dimensions is not None:
        if body.dimensions > len(raw_D):
            raise RequestError(
                f"'dimensions' is {body.dimensions}, but this model's embeddings have {len(raw_D)}:"
                " give fewer, or leave it out.",
                param="dimensions",
            )
        raw_D = raw_D[: body.dimensions]
    if not spec.normalize:
        return raw_D
    length = float(np.linalg.norm(raw_D))
    return raw_D / np.float32(length) if length else raw_D


def _encoded(vector: np.ndarray, body: EmbeddingsRequest) -> list[float] | str:
    if body.encoding_format == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return cast(list[float], vector.tolist())
