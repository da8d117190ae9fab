"""POST /v1/completions."""

from collections.abc import Sequence
from typing import Any, cast

from nimlite.errors import RequestError
from nimlite.server.answer import Answer, new_id
from nimlite.server.choice import Piece, Prompt
from nimlite.server.chunks import ChunkEncoder
from nimlite.server.generation import Job
from nimlite.server.logprobs import completion_logprobs, prompt_logprobs
from nimlite.server.prompts import build_job, check_context
from nimlite.server.protocol import MAX_PROMPTS, CompletionRequest
from nimlite.server.sampling import check_token_ids, sampling_params
from nimlite.server.state import ServedModel, ServerState
from nimlite.server.token_bytes import TokenBytes

_DEFAULT_MAX_TOKENS = 16
"""OpenAI's."""


def answer_completion(state: ServerState, body: CompletionRequest) -> Answer:
    """The answer to one or more prompts; errors are raised when it is sent."""
    answer_id = new_id("cmpl")

    async def prepare(model: ServedModel) -> Job:
        prompts = await encode_prompts(body, model)
        of_echo = body.echo and body.logprobs is not None
        params = sampling_params(
            body,
            max_tokens=_max_tokens(body),
            vocab_size=model.vocab_size,
            logprobs=body.logprobs,
            prompt_logprobs=body.logprobs if of_echo else body.prompt_logprobs,
        )
        return build_job(body, answer_id, prompts, params, echo=bool(body.echo))

    return Answer(
        state,
        model_name=body.model,
        stream=bool(body.stream),
        prepare=prepare,
        encoder=lambda model: ChunkEncoder(
            body,
            answer_id,
            CompletionFormat(
                model.tokenizer.token_bytes,
                shows_logprobs=body.logprobs is not None,
                shows_prompt=body.prompt_logprobs is not None,
            ),
        ),
    )


class CompletionFormat:
    """Choices of completions; the same in chunks and in whole answers."""

    object = "text_completion"
    chunk_object = "text_completion"

    def __init__(
        self, token_bytes: TokenBytes, *, shows_logprobs: bool, shows_prompt: bool = False
    ) -> None:
        self._token_bytes = token_bytes
        self._shows_logprobs = shows_logprobs
        self._shows_prompt = shows_prompt

    def fields(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        return {}

    def opening(self, num_choices: int) -> list[dict[str, Any]]:
        return []

    def choice(self, piece: Piece) -> dict[str, Any]:
        logprobs = (
            completion_logprobs(piece.positions, self._token_bytes)
            if self._shows_logprobs
            else None
        )
        choice = {
            "index": piece.choice,
            "text": piece.text,
            "logprobs": logprobs,
            "finish_reason": piece.finish_reason,
        }
        if self._shows_prompt:
            choice["prompt_logprobs"] = prompt_logprobs(piece.prompt_logprobs, self._token_bytes)
        return choice

    delta = choice


async def encode_prompts(body: CompletionRequest, model: ServedModel) -> tuple[Prompt, ...]:
    """Raises RequestError for prompts without a token and for ids outside the vocabulary."""
    texts, token_lists = _split(body.prompt)
    if len(texts) + len(token_lists) > MAX_PROMPTS:
        raise RequestError(f"One request may have {MAX_PROMPTS} prompts.", param="prompt")
    if texts:
        encoded = await model.tokenizer.encode(texts, max_tokens=model.max_model_len)
        prompts = [Prompt(token_ids=i, text=t) for i, t in zip(encoded, texts, strict=True)]
    else:
        prompts = [_prompt_of_ids(token_ids, body, model) for token_ids in token_lists]
    if not prompts or not all(prompt.token_ids for prompt in prompts):
        raise RequestError("'prompt' must have at least one token.", param="prompt")
    for prompt in prompts:
        _check_length(prompt.token_ids, body, model)
    return tuple(prompts)


def _prompt_of_ids(token_ids: list[int], body: CompletionRequest, model: ServedModel) -> Prompt:
    # The length comes first: a body may hold millions of ids.
    _check_length(token_ids, body, model)
    check_token_ids(token_ids, model.vocab_size, param="prompt")
    text = ""
    if body.echo:
        skips = body.skip_special_tokens is not False
        text = model.tokenizer.token_bytes.decode(token_ids, skip_special_tokens=skips)
    return Prompt(token_ids=tuple(token_ids), text=text)


def _check_length(token_ids: Sequence[int], body: CompletionRequest, model: ServedModel) -> None:
    if model.shares_context:  # else the engine's limits know
        check_context(len(token_ids), _max_tokens(body), model.max_model_len, param="prompt")


def _max_tokens(body: CompletionRequest) -> int:
    return _DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens


def _split(
    prompt: str | list[str] | list[int] | list[list[int]],
) -> tuple[list[str], list[list[int]]]:
    """One of the two lists is empty."""
    if isinstance(prompt, str):
        return [prompt], []
    if not prompt or isinstance(prompt[0], str):
        return cast(list[str], prompt), []
    if isinstance(prompt[0], int):
        return [], [prompt]
    return [], prompt
