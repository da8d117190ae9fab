"""Whether two engines of one model go on from the same texts with the same tokens, greedily.

Rounding may swap two tokens that are almost equally likely, and everything behind them: a
difference says how far the reference's own choice was ahead.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tokenizers import Tokenizer

from nimlite.engine.engine import Engine
from nimlite.engine.request import Delta, Request, SamplingParams

PROMPTS = (
    "What is the capital of France, and what is it known for?",
    "The three primary colours are",
    "def fibonacci(n):\n    ",
    "Once upon a time, in a village by the sea,",
    "Water boils at 100 degrees Celsius because",
    "Dear Sir or Madam,\n\nI am writing to",
    "List five things that you would pack for a week in the mountains:\n1.",
    "In 1969, Neil Armstrong",
)
NUM_TOKENS = 64
NEAR_TIE = 0.1
"""Of the log-probability: bf16 moves logits by about a hundredth of what they vary."""
_TOP = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """What an engine made of one prompt."""

    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    top: tuple[tuple[tuple[int, float], ...], ...]
    """For each token the likeliest ones there with their log-probabilities, best first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Where two continuations part."""

    prompt: int
    position: int
    gap: float
    """How much likelier the reference held its own token; infinite where the other one was not
    among its likeliest."""

    @property
    def is_near_tie(self) -> bool:
        return self.gap <= NEAR_TIE

    def __str__(self) -> str:
        tie = "a near tie" if self.is_near_tie else "no near tie"
        return f"prompt {self.prompt} parts at token {self.position}, {tie}: gap {self.gap:.4f}"


def continue_all(
    engine: Engine, prompts: Iterable[Sequence[int]], num_tokens: int = NUM_TOKENS
) -> tuple[Continuation, ...]:
    """Go on from each prompt, all of them in flight together."""
    params = SamplingParams(temperature=0.0, max_tokens=num_tokens, ignore_eos=True, logprobs=_TOP)
    requests = [
        Request(id=str(number), prompt_token_ids=tuple(prompt), params=params)
        for number, prompt in enumerate(prompts)
    ]
    deltas: dict[str, list[Delta]] = {request.id: [] for request in requests}
    for request in requests:
        engine.add(request)
    while engine.has_work:
        for delta in engine.step():
            deltas[delta.request_id].append(delta)
    return tuple(
        Continuation(
            prompt_token_ids=request.prompt_token_ids,
            token_ids=tuple(t for delta in deltas[request.id] for t in delta.token_ids),
            top=tuple(p.top for delta in deltas[request.id] for p in delta.logprobs),
        )
        for request in requests
    )


def differences(
    reference: Sequence[Continuation], found: Sequence[Continuation]
) -> tuple[Difference, ...]:
    """The first one of each prompt whose continuations are not the same."""
    return tuple(
        _difference(number, expected, other)
        for number, (expected, other) in enumerate(zip(reference, found, strict=True))
        if expected.token_ids != other.token_ids
    )


def _difference(number: int, expected: Continuation, other: Continuation) -> Difference:
    pairs = zip(expected.token_ids, other.token_ids, strict=True)
    position = next(i for i, (one, two) in enumerate(pairs) if one != two)
    likely = dict(expected.top[position])
    chosen = other.token_ids[position]
    gap = max(likely.values()) - likely[chosen] if chosen in likely else float("inf")
    return Difference(prompt=number, position=position, gap=gap)


def write_continuations(file: Path, continuations: Sequence[Continuation]) -> None:
    """As JSON, which `read_continuations` reads."""
    file.write_text(json.dumps([asdict(c) for c in continuations]), encoding="utf-8")


def read_continuations(file: Path) -> tuple[Continuation, ...]:
    """What `write_continuations` wrote."""
    return tuple(
        Continuation(
            prompt_token_ids=tuple(entry["prompt_token_ids"]),
            token_ids=tuple(entry["token_ids"]),
            top=tuple(tuple((t, p) for t, p in position) for position in entry["top"]),
        )
        for entry in json.loads(file.read_text(encoding="utf-8"))
    )


def run_greedy(
    engine: Engine, tokenizer_file: Path, write: Path | None, against: Path | None
) -> Iterator[str]:
    """Lines for people. Continue the prompts, or those of the file `against`, and compare."""
    if against is None:
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
        prompts = [tokenizer.encode(prompt).ids for prompt in PROMPTS]
    else:
        reference = read_continuations(against)
        prompts = [list(one.prompt_token_ids) for one in reference]
    found = continue_all(engine, prompts)
    if write:
        write_continuations(write, found)
        yield f"{len(found)} continuations of {NUM_TOKENS} tokens: {write}"
    if against:
        parted = differences(reference, found)
        yield from map(str, parted)
        equal, ties = len(found) - len(parted), sum(one.is_near_tie for one in parted)
        yield f"{equal} of {len(found)} are equal; {ties} of {len(parted)} part at a near tie"
