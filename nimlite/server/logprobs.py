"""OpenAI's two shapes of log-probabilities."""

from collections.abc import Sequence
from typing import Any

from nimlite.engine.request import Logprob
from nimlite.server.choice import Position
from nimlite.server.token_bytes import TokenBytes

_LEAST = -9999.0
"""JSON has no infinity; OpenAI writes this for tokens that can't be sampled."""


def chat_logprobs(positions: Sequence[Position], token_bytes: TokenBytes) -> dict[str, Any]:
    """`logprobs` of a chat choice."""

    def entry(token_id: int, logprob: float) -> dict[str, Any]:
        return {
            "token": token_bytes.text(token_id),
            "logprob": max(logprob, _LEAST),
            "bytes": list(token_bytes[token_id]),
        }

    return {
        "content": [
            entry(position.token_id, position.logprob.logprob)
            | {"top_logprobs": [entry(*candidate) for candidate in position.logprob.top]}
            for position in positions
            if position.logprob is not None
        ],
        "refusal": None,
    }


def completion_logprobs(positions: Sequence[Position], token_bytes: TokenBytes) -> dict[str, Any]:
    """`logprobs` of a completion choice; null for the first token of an echoed prompt."""
    return {
        "tokens": [token_bytes.text(position.token_id) for position in positions],
        "token_logprobs": [
            None if position.logprob is None else max(position.logprob.logprob, _LEAST)
            for position in positions
        ],
        "top_logprobs": [_top(position, token_bytes) for position in positions],
        "text_offset": [position.offset for position in positions],
    }


def prompt_logprobs(
    logprobs: Sequence[Logprob | None], token_bytes: TokenBytes
) -> list[dict[str, Any] | None]:
    """vLLM's shape: by token id, the likeliest tokens at each position, and the prompt's own."""

    def entry(token_id: int, logprob: float, rank: int) -> dict[str, Any]:
        text = token_bytes.text(token_id)
        return {"logprob": max(logprob, _LEAST), "rank": rank, "decoded_token": text}

    return [
        None
        if own is None
        else {
            str(token_id): entry(token_id, logprob, rank)
            for token_id, logprob, rank in (
                (own.token_id, own.logprob, own.rank),
                *((*candidate, rank) for rank, candidate in enumerate(own.top, start=1)),
            )
        }
        for own in logprobs
    ]


def _top(position: Position, token_bytes: TokenBytes) -> dict[str, float] | None:
    """The most likely tokens, and always the one that was chosen."""
    if position.logprob is None:
        return None
    candidates = [*position.logprob.top, (position.token_id, position.logprob.logprob)]
    return {token_bytes.text(token_id): max(value, _LEAST) for token_id, value in candidates}
