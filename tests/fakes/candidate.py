"""Engines to be proved that are only logits."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from nimlite.build.selftest import Logits


@dataclass(frozen=True)
class LogitsOnly:
    """Goes on by asking for the logits of the whole text again."""

    logits: Logits

    def __call__(self, prompts: Sequence[Sequence[int]]) -> Iterator[torch.Tensor]:
        return self.logits(prompts)

    def greedy(self, prompt: Sequence[int], num_tokens: int) -> list[int]:
        text = list(prompt)
        for _ in range(num_tokens):
            (logits_TV,) = self.logits([text])
            text.append(int(logits_TV[-1].argmax()))
        return text[len(prompt) :]

    def close(self) -> None:
        pass
