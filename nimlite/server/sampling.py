"""From a checked body to the engine's SamplingParams."""

from collections.abc import Iterable

from nimlite.engine.request import SamplingParams
from nimlite.errors import RequestError
from nimlite.server.protocol import GenerationBody

_GREEDY_TEMPERATURE = 1e-5
"""Below it logits over temperature leave the range of float32; the choice is greedy anyway."""


def sampling_params(
    body: GenerationBody,
    *,
    max_tokens: int,
    vocab_size: int,
    logprobs: int | None,
    prompt_logprobs: int | None = None,
) -> SamplingParams:
    """Raises RequestError for token ids outside the vocabulary and for limits that contradict."""
    stop_token_ids = tuple(body.stop_token_ids or ())
    logit_bias = body.logit_bias or {}
    check_token_ids(stop_token_ids, vocab_size, param="stop_token_ids")
    check_token_ids(logit_bias, vocab_size, param="logit_bias")
    min_tokens = body.min_tokens or 0
    if min_tokens > max_tokens:
        raise RequestError(
            f"'min_tokens' ({min_tokens}) must not exceed the limit of output tokens "
            f"({max_tokens}).",
            param="min_tokens",
        )
    temperature = 1.0 if body.temperature is None else body.temperature
    top_p = 1.0 if body.top_p is None else body.top_p
    return SamplingParams(
        temperature=0.0 if temperature < _GREEDY_TEMPERATURE else temperature,
        top_p=top_p or 1.0,
        # A nucleus of nothing is its first token.
        top_k=1 if top_p == 0 else max(body.top_k or 0, 0),
        min_p=body.min_p or 0.0,
        repetition_penalty=body.repetition_penalty or 1.0,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        logit_bias=logit_bias,
        seed=body.seed,
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        ignore_eos=bool(body.ignore_eos),
        stop_token_ids=stop_token_ids,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
    )


def check_token_ids(token_ids: Iterable[int], vocab_size: int, *, param: str) -> None:
    """Raises RequestError where one is outside the vocabulary."""
    for token_id in token_ids:
        if not 0 <= token_id < vocab_size:
            raise RequestError(
                f"Invalid token id in '{param}': {str(token_id)[:20]}. This model's vocabulary "
                f"has the ids 0 to {vocab_size - 1}.",
                param=param,
                code="invalid_token_id",
            )
