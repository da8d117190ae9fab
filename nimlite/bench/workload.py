"""What a benchmark asks of a system: how many requests, how long, how many at once."""

import random
from dataclasses import dataclass
from importlib import resources

_WORDS_PER_TOKEN = 0.75
"""Of English prose in the vocabularies of today's models, about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Greedy requests of fixed lengths, `concurrency` of them in flight until all are done."""

    concurrency: int
    num_requests: int
    num_prompt_tokens: int
    """About; the figures come with what the system counted."""
    num_output_tokens: int
    """Exactly: the end-of-sequence token is ignored."""

    @property
    def name(self) -> str:
        return "1 stream" if self.concurrency == 1 else f"{self.concurrency} concurrent"


def passages() -> tuple[str, ...]:
    """The texts in the public domain that come with nimlite, in the order of their names."""
    directory = resources.files("nimlite.build").joinpath("data")
    texts = sorted((t for t in directory.iterdir() if t.name.endswith(".txt")), key=str)
    return tuple(text.read_text(encoding="utf-8") for text in texts)


def make_prompts(workload: Workload, seed: int) -> tuple[str, ...]:
    """A distinct prompt a request. Each begins with a nonce, so that no cache of prefixes helps."""
    chooser = random.Random(seed)
    words = " ".join(passages()).split()
    num_words = round(workload.num_prompt_tokens * _WORDS_PER_TOKEN)
    prompts = []
    for _ in range(workload.num_requests):
        start = chooser.randrange(len(words))
        turned = words[start:] + words[:start]
        prompts.append(" ".join([f"{chooser.getrandbits(24):06x}", *turned[: num_words - 1]]))
    return tuple(prompts)
