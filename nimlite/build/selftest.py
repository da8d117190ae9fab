"""The proof before an engine is sealed: its logits against the reference's on known texts."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Protocol

import torch
from tokenizers import Tokenizer

from nimlite.build.quality import GenerationReport, QualityReport
from nimlite.errors import ModelError, SelfTestError

Logits = Callable[[Sequence[Sequence[int]]], Iterator[torch.Tensor]]
"""Prompts in, for each in turn logits_TV of all its positions out."""


class Candidate(Protocol):
    """An engine's arithmetic before it serves."""

    def __call__(self, prompts: Sequence[Sequence[int]]) -> Iterator[torch.Tensor]:
        """For each prompt in turn logits_TV of all its positions."""

    def greedy(self, prompt: Sequence[int], num_tokens: int) -> list[int]:
        """The likeliest tokens after the prompt, each in a step of its own."""

    def close(self) -> None:
        """End other processes, where it has some."""


_NUM_GENERATIONS, _CONTEXT_TOKENS, _GENERATED_TOKENS = 2, 32, 16
_PASSAGE_TOKENS = 256


def probe_prompts(tokenizer_file: Path, vocab_size: int, max_tokens: int) -> list[list[int]]:
    """A prompt of one token and the beginnings of the texts in data/, of at most `max_tokens` each.

    Raises ModelError where the tokenizer has tokens that the model does not know.
    """
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    texts = sorted(
        resources.files("nimlite.build").joinpath("data").iterdir(), key=lambda t: t.name
    )
    prompts = [
        tokenizer.encode(text.read_text(encoding="utf-8")).ids[: min(max_tokens, _PASSAGE_TOKENS)]
        for text in texts
        if text.name.endswith(".txt")
    ]
    largest = max(max(prompt) for prompt in prompts)
    if largest >= vocab_size:
        raise ModelError(
            f"The tokenizer gives token {largest}, but the model has only {vocab_size}: they"
            " belong to different"
            " models."
        )
    return [prompts[0][:1], *prompts]


def self_test(engine: Logits, reference: Logits, prompts: Sequence[Sequence[int]]) -> QualityReport:
    """Compare both on the prompts. Raises SelfTestError where the engine gives NaN or infinity."""
    sums = _Sums()
    for prompt, found_TV, expected_TV in zip(
        prompts, engine(prompts), reference(prompts), strict=True
    ):
        if not found_TV.isfinite().all():
            raise SelfTestError(
                f"The engine's logits for a prompt of {len(prompt)} tokens are not finite. This is"
                " a defect of"
                " nimlite or of this machine; please report it."
            )
        prompt_T = torch.tensor(prompt, device=expected_TV.device)
        sums.add(prompt_T, found_TV.float(), expected_TV.float())
    return sums.report()


@torch.inference_mode()
def generation_test(engine: Candidate, prompts: Sequence[Sequence[int]]) -> GenerationReport:
    """Let the engine go on from some of the prompts, and judge what it wrote.

    That its pass over a whole text is the model's, `self_test` shows; that its steps write what
    that pass finds likely, this does. A model that repeats itself by its own weights passes.
    """
    num_tokens, longest_run, regret = 0, 0, 0.0
    for prompt in [prompt for prompt in prompts if len(prompt) > 1][:_NUM_GENERATIONS]:
        context = list(prompt[: min(_CONTEXT_TOKENS, len(prompt) // 2)])
        written = engine.greedy(context, min(_GENERATED_TOKENS, len(prompt) - len(context)))
        if not written:
            continue
        (logits_TV,) = engine([context + written])
        log_p_TV = logits_TV[len(context) - 1 : -1].float().log_softmax(dim=1)
        written_T1 = torch.tensor(written, device=log_p_TV.device).unsqueeze(1)
        regret += float((log_p_TV.amax(1) - log_p_TV.gather(1, written_T1)[:, 0]).sum())
        num_tokens += len(written)
        runs = (len(list(run)) for _, run in itertools.groupby(written))
        longest_run = max(longest_run, *runs)
    return GenerationReport(
        num_tokens=num_tokens, regret=regret / max(1, num_tokens), longest_run=longest_run
    )


@dataclass(slots=True)
class _Sums:
    num_tokens: int = 0
    num_agreeing: int = 0
    num_predicted: int = 0
    max_absolute_error: float = 0.0
    kl_divergence: float = 0.0
    squared_error: float = 0.0
    squared_reference: float = 0.0
    loss: float = 0.0
    reference_loss: float = 0.0

    def add(
        self, prompt_T: torch.Tensor, found_TV: torch.Tensor, expected_TV: torch.Tensor
    ) -> None:
        difference_TV = found_TV - expected_TV
        targets_T = prompt_T[1:]
        self.num_tokens += len(prompt_T)
        self.num_predicted += len(targets_T)
        self.num_agreeing += int((found_TV.argmax(1) == expected_TV.argmax(1)).sum())
        self.max_absolute_error = max(self.max_absolute_error, float(difference_TV.abs().max()))
        self.kl_divergence += _kl_divergence(found_TV, expected_TV)
        self.squared_error += _variation(difference_TV)
        self.squared_reference += _variation(expected_TV)
        self.loss += _cross_entropy(found_TV[:-1], targets_T)
        self.reference_loss += _cross_entropy(expected_TV[:-1], targets_T)

    def report(self) -> QualityReport:
        return QualityReport(
            num_tokens=self.num_tokens,
            max_absolute_error=self.max_absolute_error,
            relative_error=math.sqrt(self.squared_error / self.squared_reference),
            argmax_agreement=self.num_agreeing / self.num_tokens,
            kl_divergence=self.kl_divergence / self.num_tokens,
            perplexity=math.exp(self.loss / self.num_predicted),
            reference_perplexity=math.exp(self.reference_loss / self.num_predicted),
        )


def _variation(x_TV: torch.Tensor) -> float:
    """Sum of the squares about each position's mean."""
    return float(x_TV.var(dim=1, correction=0).double().sum()) * x_TV.shape[1]


def _kl_divergence(found_TV: torch.Tensor, expected_TV: torch.Tensor) -> float:
    """Sum over the positions, in nats; rounding does not make it negative."""
    found_TV, expected_TV = found_TV.log_softmax(dim=1), expected_TV.log_softmax(dim=1)
    divergence = torch.nn.functional.kl_div(found_TV, expected_TV, reduction="sum", log_target=True)
    return max(0.0, float(divergence))


def _cross_entropy(logits_TV: torch.Tensor, targets_T: torch.Tensor) -> float:
    return float(torch.nn.functional.cross_entropy(logits_TV, targets_T, reduction="sum"))
