"""How far an engine's output is from the fp32 model's, and how far it may be."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from nimlite.errors import SelfTestError
from nimlite.profiles.manifest import Precision

_MAX_PERPLEXITY_INCREASE = 0.01
_COARSE_MAX_PERPLEXITY_INCREASE: Mapping[Precision, float] = {
    Precision.INT8_SQ: 0.02,
}
_MAX_KL_DIVERGENCE: Mapping[Precision, float] = {
    Precision.FP8: 0.12,
    Precision.INT4_AWQ: 0.5,
    Precision.INT4_GPTQ: 0.5,
}
"""Nats a token. SmolLM2-135M, which suffers more than larger models, has 0.051 in fp8, about 0.03
more where keys and values are in fp8 too, and 0.35 in 4 bits. The test's texts are well known:
small models recite them, and the perplexity of a recitation suffers many times more from 4 bits, or
3 of a mantissa, than that of other texts."""
_MAX_ABSOLUTE_ERROR_FP32 = 1e-3
_MAX_EMBEDDING_ERROR = 0.1
"""Of a model that only reads, in every precision: cosines between texts change by 0.005."""
_MAX_REGRET = 0.5
"""Nats a token. A right engine's steps differ from its pass over the whole text by rounding alone,
which costs hundredths; a wrong one's tokens are many nats less likely."""
_MAX_RELATIVE_ERROR: Mapping[Precision, float] = {
    Precision.FP32: 1e-4,
    Precision.BF16: 0.05,
    Precision.FP16: 0.05,
    Precision.FP8: 0.18,
    Precision.INT8: 0.2,
    Precision.INT8_WO: 0.2,
    Precision.INT8_SQ: 0.2,
    Precision.INT4: 0.2,
    Precision.INT4_AWQ: 0.4,
    Precision.INT4_GPTQ: 0.4,
}
"""Of the logits. These tell a wrong engine from a rounded one (rounding costs SmolLM2-135M 1 % to
12 %, and 30 % in 4 bits that are calibrated; a wrong layer costs more than 50 %); perplexity tells
whether the rounding is worth it."""


def max_relative_error(precision: Precision) -> float:
    """How far an engine's logits may be from the model's: what its rounding costs, at most."""
    return _MAX_RELATIVE_ERROR[precision]


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityReport:
    """The engine's logits against the reference's, over all positions of the test's prompts."""

    num_tokens: int
    max_absolute_error: float
    relative_error: float
    """Euclidean norm of the difference / that of the reference's logits, both about the mean of
    their position: adding the same to all logits changes no probability."""
    argmax_agreement: float
    """Share of the positions where both would choose the same token."""
    kl_divergence: float
    """Of the engine's next-token probabilities from the reference's, in nats, on average."""
    perplexity: float
    reference_perplexity: float

    @property
    def perplexity_increase(self) -> float:
        """0.01 = 1 % worse than the reference."""
        return self.perplexity / self.reference_perplexity - 1

    def __str__(self) -> str:
        return (
            f"logits differ by {self.relative_error:.2%} (at most {self.max_absolute_error:.2g}),"
            f" {self.argmax_agreement:.1%} of the tokens agree, KL divergence"
            f" {self.kl_divergence:.2g} nats, perplexity {self.perplexity:.2f}"
            f" against {self.reference_perplexity:.2f} ({self.perplexity_increase:+.2%}), over"
            f" {self.num_tokens} tokens"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationReport:
    """What the engine wrote greedily, one token a step, judged by its own pass over that text."""

    num_tokens: int
    regret: float
    """Nats by which a written token is less likely than the likeliest one, on average."""
    longest_run: int
    """Of one token after itself."""

    def __str__(self) -> str:
        if not self.num_tokens:
            return "it reads and does not write"
        return (
            f"{self.num_tokens} generated tokens are {self.regret:.2g} nats from the likeliest,"
            f" the longest run of one token is {self.longest_run}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """All that a self-test found."""

    quality: QualityReport
    generation: GenerationReport

    def __str__(self) -> str:
        return f"{self.quality}; {self.generation}"


def require_quality(proof: Proof, precision: Precision) -> None:
    """Raises SelfTestError, with the figures, where the proof is outside the tolerance."""
    report, generation = proof.quality, proof.generation
    if report.relative_error > _MAX_RELATIVE_ERROR[precision] or (
        precision is Precision.FP32 and report.max_absolute_error > _MAX_ABSOLUTE_ERROR_FP32
    ):
        raise SelfTestError(
            f"The engine ({precision}) does not compute this model: {report}. This is a defect of"
            " nimlite or of this"
            " machine; please report it with this line. NIM_PRECISION=fp32 may serve"
            " meanwhile."
        )
    if not generation.regret <= _MAX_REGRET:
        runs = 2 * generation.longest_run >= generation.num_tokens
        raise SelfTestError(
            f"The engine ({precision}) knows this model's texts, but writes"
            f" {'one token over and over' if runs else 'garbage'} token by token: {generation};"
            f" {_MAX_REGRET} nats are allowed. This is a defect of nimlite or of this machine;"
            " please report it with this line."
        )
    if not generation.num_tokens:  # nobody asks it for the next token
        if report.relative_error > _MAX_EMBEDDING_ERROR:
            raise _costs_too_much(report, precision, f"{_MAX_EMBEDDING_ERROR:.0%} is allowed")
        return
    most = _MAX_KL_DIVERGENCE.get(precision, math.inf)
    if not report.kl_divergence <= most:
        raise _costs_too_much(report, precision, f"{most} nats are allowed")
    most = _COARSE_MAX_PERPLEXITY_INCREASE.get(precision, _MAX_PERPLEXITY_INCREASE)
    if precision not in _MAX_KL_DIVERGENCE and report.perplexity_increase > most:
        raise _costs_too_much(report, precision, f"{most:.0%} is allowed")


def _costs_too_much(report: QualityReport, precision: Precision, allowed: str) -> SelfTestError:
    return SelfTestError(
        f"Rounding this model to {precision} costs too much: {report}; {allowed}."
        " Choose a finer precision, such as NIM_PRECISION=bf16."
    )
