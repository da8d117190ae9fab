"""A few requests before the first: what is compiled or chosen at its first use is so by then."""

from collections.abc import Iterator, Sequence

from nimlite.engine.engine import Engine
from nimlite.engine.request import SamplingParams
from nimlite.observe.progress import Progress

_NUM_OUTPUT_TOKENS = 3
"""The prompt's step, one alone, and one behind another that is in flight."""
_SHAPES = ((1, 1), (1, 13), (1, 64), (1, 500), (1, 2048), (2, 100), (7, 32), (8, 200), (64, 24))
"""Requests at once, and tokens of each prompt: kernels differ by sizes and by what these divide."""
_PARAMS = (
    SamplingParams(temperature=0.0, ignore_eos=True, max_tokens=_NUM_OUTPUT_TOKENS),
    SamplingParams(
        temperature=0.8,
        top_p=0.9,
        top_k=40,
        min_p=0.01,
        repetition_penalty=1.1,
        presence_penalty=0.1,
        frequency_penalty=0.1,
        logit_bias={0: -1.0},
        seed=0,
        logprobs=1,
        ignore_eos=True,
        max_tokens=_NUM_OUTPUT_TOKENS,
    ),
)


def warm_up(engine: Engine, progress: Progress) -> None:
    """Generate in all shapes that `engine` takes. It holds no request before and after."""
    shapes = list(_shapes(engine))
    with progress.task("Warm up", len(shapes) * len(_PARAMS), "runs") as task:
        for i, (num_requests, length) in enumerate(shapes):
            for params in _PARAMS:
                engine.generate(_prompts(num_requests, length, i, engine.spec.vocab_size), params)
                task.advance(1)


def _shapes(engine: Engine) -> Iterator[tuple[int, int]]:
    """Cut to what one request may have, and to what runs at once."""
    longest = engine.limits.max_tokens - _NUM_OUTPUT_TOKENS
    most = engine.profile.max_batch_size
    largest = (most, max(1, engine.profile.max_num_tokens // most))
    for num_requests, length in (*_SHAPES, largest):
        if longest > 0:
            yield min(num_requests, most), min(length, longest)


def _prompts(num_requests: int, length: int, salt: int, vocab_size: int) -> Sequence[Sequence[int]]:
    """No two begin alike, or the second would find its keys and values in the cache."""
    return [
        [(salt + (1 + request) * (1 + position)) % vocab_size for position in range(length)]
        for request in range(num_requests)
    ]
