import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.candidate import LogitsOnly
from fakes.llama import Llama, random_llama

from nimlite.build.quality import GenerationReport, Proof, QualityReport, require_quality
from nimlite.build.reference import Reference
from nimlite.build.selftest import Logits, generation_test, probe_prompts, self_test
from nimlite.build.tokenizer_files import SpecialTokens, byte_tokenizer, write_tokenizer
from nimlite.errors import ModelError, SelfTestError
from nimlite.profiles.manifest import Precision

GOOD = QualityReport(
    num_tokens=100,
    max_absolute_error=1e-5,
    relative_error=1e-6,
    argmax_agreement=1.0,
    kl_divergence=0.0,
    perplexity=20.0,
    reference_perplexity=20.0,
)
WRITES = GenerationReport(num_tokens=32, regret=0.001, longest_run=2)
PROMPTS = [[0], [1, 2, 0]]


def logits_of(*rows: list[list[float]]) -> Logits:
    return lambda prompts: (torch.tensor(r) for r in rows)


REFERENCE = logits_of([[0.0, 0.0, 0.0]], [[0.0, 1.0, 2.0], [3.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


def test_an_equal_engine() -> None:
    report = self_test(REFERENCE, REFERENCE, PROMPTS)
    assert (report.num_tokens, report.max_absolute_error, report.relative_error) == (4, 0, 0)
    assert report.argmax_agreement == 1 and report.perplexity_increase == 0
    assert report.kl_divergence == pytest.approx(0, abs=1e-6)


def test_the_figures_of_another_engine() -> None:
    """The first position's logits are one higher, all of them; the second's first is lower."""
    engine = logits_of([[1.0, 1.0, 1.0]], [[0.0, 1.0, 2.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    report = self_test(engine, REFERENCE, PROMPTS)
    assert report.max_absolute_error == 4
    assert report.relative_error == pytest.approx(math.sqrt((16 * 2 / 3) / (2 + 6 + 2 / 3)))
    assert report.argmax_agreement == 3 / 4
    ln = math.log
    first = ln(1 + math.e + math.e**2) - 2  # token 2 after token 1
    assert report.reference_perplexity == pytest.approx(
        math.exp((first + ln(math.e**3 + 2) - 3) / 2)
    )
    assert report.perplexity == pytest.approx(math.exp((first + ln(math.e**-1 + 2) + 1) / 2))
    p, q = (torch.tensor([x, 0.0, 0.0]).softmax(0) for x in (3.0, -1.0))
    assert report.kl_divergence == pytest.approx(float((p * (p / q).log()).sum()) / 4)


@dataclass(frozen=True)
class Writing(LogitsOnly):
    """Writes one token, whatever its logits say."""

    token: int = 3

    def greedy(self, prompt: Sequence[int], num_tokens: int) -> list[int]:
        return [self.token] * num_tokens


def one_more(prompts: Sequence[Sequence[int]]) -> Iterator[torch.Tensor]:
    """Logits of 20 for the token after each."""
    for prompt in prompts:
        yield 20 * torch.nn.functional.one_hot(torch.tensor(prompt) + 1, 300).float()


def test_what_the_steps_write_is_what_the_whole_pass_finds_likely() -> None:
    prompts = [[0], list(range(100)), [9, 8, 7], [1]]
    report = generation_test(LogitsOnly(one_more), prompts)
    assert report == GenerationReport(num_tokens=16 + 2, regret=0.0, longest_run=1)
    assert generation_test(LogitsOnly(one_more), [[0]]).num_tokens == 0
    stuck = generation_test(Writing(one_more), prompts)
    assert (stuck.regret, stuck.longest_run) == (pytest.approx(20), 16)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_no_number(bad: float) -> None:
    engine = logits_of([[0.0, bad, 0.0]])
    with pytest.raises(SelfTestError, match="for a prompt of 1 tokens are not finite"):
        self_test(engine, logits_of([[0.0, 0.0, 0.0]]), [[0]])


@pytest.mark.parametrize(
    ("precision", "changes", "sentence"),
    [
        (Precision.FP32, {"max_absolute_error": 0.01}, r"\(fp32\) does not compute this model"),
        (Precision.INT4, {"relative_error": 0.6}, r"does not compute .*logits differ by 60\.00%"),
        (
            Precision.INT4,
            {"perplexity": 21.0},
            r"Rounding this model to int4 costs too much: .* 21\.00 against 20\.00 \(\+5.*bf16",
        ),
        (Precision.FP8, {"kl_divergence": 0.2}, r"0\.2 nats, .*; 0\.12 nats are allowed"),
        (Precision.INT8_SQ, {"perplexity": 20.5}, r"to int8_sq costs too much: .*; 2% is allowed"),
    ],
)
def test_what_is_not_good_enough(
    precision: Precision, changes: dict[str, Any], sentence: str
) -> None:
    require_quality(Proof(quality=GOOD, generation=WRITES), precision)
    bad = dataclasses.replace(GOOD, **changes)
    with pytest.raises(SelfTestError, match=sentence):
        require_quality(Proof(quality=bad, generation=WRITES), precision)


@pytest.mark.parametrize(
    ("regret", "longest_run", "what"),
    [(9.0, 2, "garbage"), (9.0, 16, "one token over and over"), (math.nan, 1, "garbage")],
)
def test_what_writes_wrong_tokens(regret: float, longest_run: int, what: str) -> None:
    writes = GenerationReport(num_tokens=32, regret=regret, longest_run=longest_run)
    with pytest.raises(SelfTestError, match=f"but writes {what} token by token: 32 generated"):
        require_quality(Proof(quality=GOOD, generation=writes), Precision.INT4)


def test_prompts_fit_the_model(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, byte_tokenizer(), SpecialTokens(eos_ids=(256,)), 512)
    file = tmp_path / "tokenizer.json"
    prompts = probe_prompts(file, vocab_size=257, max_tokens=8192)
    assert [len(prompt) for prompt in prompts] == [1, 256, 256, 256, 256]
    assert bytes(prompts[3]).startswith(b"Four score and seven years ago")
    assert {len(p) for p in probe_prompts(file, vocab_size=257, max_tokens=64)} == {1, 64}
    with pytest.raises(ModelError, match="but the model has only 50"):
        probe_prompts(file, vocab_size=50, max_tokens=64)


@pytest.mark.parametrize(
    "shape",
    [
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False},
        {"hidden_act": "gelu_pytorch_tanh", "num_key_value_heads": 1},
        {"hidden_act": "gelu"},
    ],
    ids=["everything", "one key head", "gelu"],
)
def test_the_reference_is_transformers(tmp_path: Path, shape: dict[str, object]) -> None:
    llama: Llama = random_llama(tmp_path, **shape)
    prompts = [[7], list(range(40, 140)), [3, 1, 2]]
    for prompt, found_TV in zip(
        prompts, Reference(llama.checkpoint, llama.spec)(prompts), strict=True
    ):
        torch.testing.assert_close(found_TV, llama.reference_logits(prompt), atol=1e-4, rtol=0)
