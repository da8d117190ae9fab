"""Two engines' greedy continuations, compared."""

import dataclasses
from pathlib import Path

import pytest
from fakes.llama import Llama

from nimlite.bench.greedy import (
    PROMPTS,
    continue_all,
    differences,
    read_continuations,
    run_greedy,
    write_continuations,
)
from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.profiles.manifest import Precision


@pytest.fixture
def tokenizer_file(tiny: Llama) -> Path:
    return tiny.tokenizer_directory / "tokenizer.json"


def test_an_engine_agrees_with_what_it_wrote(
    tiny: Llama, kernels: CpuKernels, tokenizer_file: Path, tmp_path: Path
) -> None:
    file = tmp_path / "reference.json"
    engine = tiny.engine(kernels)
    assert list(run_greedy(engine, tokenizer_file, file, None)) == [
        f"{len(PROMPTS)} continuations of 64 tokens: {file}"
    ]
    again = tiny.engine(kernels)
    assert list(run_greedy(again, tokenizer_file, None, file)) == [
        "8 of 8 are equal; 0 of 0 part at a near tie"
    ]
    rounded = tiny.engine(kernels, Precision.INT4)
    *parted, last = run_greedy(rounded, tokenizer_file, None, file)
    assert len(parted) > 0 and last.startswith(f"{8 - len(parted)} of 8 are equal; ")


def test_a_difference_says_how_far_it_was_ahead(
    tiny: Llama, kernels: CpuKernels, tmp_path: Path
) -> None:
    (reference,) = continue_all(tiny.engine(kernels), [[1, 2, 3]], 6)
    write_continuations(tmp_path / "file", [reference])
    assert read_continuations(tmp_path / "file") == (reference,)
    (best, best_logprob), (second, second_logprob), *_ = reference.top[4]
    assert reference.token_ids[4] == best

    def with_token(token_id: int) -> str:
        token_ids = (*reference.token_ids[:4], token_id, 0)
        (found,) = differences([reference], [dataclasses.replace(reference, token_ids=token_ids)])
        assert (found.prompt, found.position) == (0, 4)
        return str(found)

    gap = best_logprob - second_logprob
    tie = "a near tie" if gap <= 0.1 else "no near tie"
    assert with_token(second) == f"prompt 0 parts at token 4, {tie}: gap {gap:.4f}"
    unlikely = next(i for i in range(272) if i not in dict(reference.top[4]))
    assert with_token(unlikely).endswith("no near tie: gap inf")
    assert differences([reference], [reference]) == ()
