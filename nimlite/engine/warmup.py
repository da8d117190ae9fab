"""A few requests before the first: what is compiled or chosen at its first use is so by then."""

import contextlib
from collections.abc import Iterator, Sequence

from nimlite.engine.engine import Engine
from nimlite.engine.request import Grammar, GrammarKind, SamplingParams
from nimlite.errors import RequestError
from nimlite.models.embedding import Pooling
from nimlite.observe.progress import Progress

_NUM_OUTPUT_TOKENS = 3
"""The prompt's step, one alone, and one behind another that is in flight."""
_GREEDY = SamplingParams(temperature=0.0, ignore_eos=True, max_tokens=_NUM_OUTPUT_TOKENS)
_SAMPLED = SamplingParams(
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
)
_GRAMMAR = Grammar(GrammarKind.REGEX, "[a-z]*")
_RUNS = (
    (1, 1, _GREEDY),
    (1, 500, _GREEDY),
    (7, 32, _GREEDY),
    (8, 200, _GREEDY),
    (1, 13, _SAMPLED),
    (8, 24, _SAMPLED),
)
"""Requests at once, and tokens of each prompt: kernels differ by sizes and by what these divide. A
few, for each delays the start by some hundredths of a second."""


def warm_up(engine: Engine, progress: Progress) -> None:
    """Generate as `engine` will have to. It holds no request before and after."""
    runs = list(_runs(engine))
    with progress.task("Warm up", len(runs), "runs") as task:
        for salt, (num_requests, length, params) in enumerate(runs):
            prompts = _prompts(num_requests, length, salt, engine.spec.vocab_size)
            if engine.spec.causal:
                engine.generate(prompts, params)
            else:
                engine.embed(prompts, Pooling.MEAN)
            task.advance(1)
    if not engine.spec.causal:
        return
    # Not every tokenizer can be used with grammars; whoever asks for one is told so.
    title = "Read the vocabulary for grammars"
    with progress.task(title, None, ""), contextlib.suppress(RequestError):
        engine.generate([[1]], _GREEDY, grammar=_GRAMMAR)


def _runs(engine: Engine) -> Iterator[tuple[int, int, SamplingParams]]:
    """Cut to what one request may have, and to what runs at once."""
    longest = engine.limits.max_tokens - _NUM_OUTPUT_TOKENS
    most = engine.profile.max_batch_size
    largest = (most, max(1, engine.profile.max_num_tokens // most), _GREEDY)
    for num_requests, length, params in (*_RUNS, largest):
        if longest > 0:
            yield min(num_requests, most), min(length, longest), params


def _prompts(num_requests: int, length: int, salt: int, vocab_size: int) -> Sequence[Sequence[int]]:
    """No two begin alike, or the second would find its keys and values in the cache."""
    return [
        [(salt + (1 + request) * (1 + position)) % vocab_size for position in range(length)]
        for request in range(num_requests)
    ]
