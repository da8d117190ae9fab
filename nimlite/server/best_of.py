"""The best of several answers: beam search, and `best_of` samples."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nimlite.engine.request import BeamSearch
from nimlite.errors import RequestError

if TYPE_CHECKING:
    from nimlite.server.protocol import GenerationBody

MAX_BEAMS = 32
_WITHOUT_PART = (
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
)
"""Fields that change what is likely: beams are the likeliest answers of the model itself."""


def check_best_of(body: "GenerationBody") -> None:
    """Raises RequestError for what does not go together."""
    n, best_of = body.n or 1, body.best_of
    if best_of is not None and best_of < n:
        raise RequestError(
            f"'best_of' ({best_of}) must not be less than 'n' ({n}): of so many answers the 'n' "
            "best are returned.",
            param="best_of",
        )
    if body.use_beam_search:
        _check_beams(body, best_of or n)
    if best_of is not None and best_of > n and body.stream and beam_search_of(body) is None:
        raise RequestError(
            "'best_of' greater than 'n' can't be streamed, for the best are known at the end: "
            "leave 'stream' out.",
            param="best_of",
        )
    for name, neutral in (("length_penalty", 1.0), ("early_stopping", False)):
        if not body.use_beam_search and getattr(body, name) not in (None, neutral):
            raise RequestError(
                f"'{name}' is allowed only with 'use_beam_search': true.", param=name
            )


def _check_beams(body: "GenerationBody", width: int) -> None:
    if width > MAX_BEAMS:
        raise RequestError(
            f"A beam search may have {MAX_BEAMS} beams ('best_of', or 'n'); {width} were asked "
            "for.",
            param="n" if body.best_of is None else "best_of",
        )
    for name in _WITHOUT_PART:
        value = getattr(body, name)
        if value and not (name == "repetition_penalty" and value == 1):
            raise RequestError(
                f"'{name}' has no part in a beam search, which returns the likeliest answers of the"
                " model itself: leave one of them out.",
                param=name,
            )


def beam_search_of(body: "GenerationBody") -> BeamSearch | None:
    """None where tokens are drawn."""
    if not body.use_beam_search or body.max_tokens == 0:
        return None
    return BeamSearch(
        width=body.best_of or body.n or 1,
        length_penalty=1.0 if body.length_penalty is None else body.length_penalty,
        early_stopping=body.early_stopping or False,
    )


def best_places(mean_logprobs: Sequence[float], n: int) -> list[int]:
    """Of the answers to one prompt the `n` likeliest a token, best first."""
    return sorted(range(len(mean_logprobs)), key=lambda place: -mean_logprobs[place])[:n]
