"""The checks of an engine must pass a right one and catch a wrong one."""

import dataclasses

import pytest
from fakes.llama import Llama

from nimlite.bench.greedy import Continuation, continue_all
from nimlite.bench.soak import agreement, invariance, run_soak, soak
from nimlite.kernels.cpu.cpu_kernels import CpuKernels

PROMPTS = [list(b"We hold these truths"[:n]) for n in (1, 5, 20)]


def alone(tiny: Llama, kernels: CpuKernels, num_tokens: int) -> list[Continuation]:
    engine = tiny.engine(kernels)
    return [continue_all(engine, [prompt], num_tokens)[0] for prompt in PROMPTS]


def test_positions_are_counted_up_to_the_first_difference() -> None:
    top = (((4, -0.1), (5, -3.0)), ((8, -0.5), (9, -0.75)), ((6, -0.1), (7, -3.0)))
    expected = Continuation(prompt_token_ids=(1,), token_ids=(4, 8, 6), top=top)
    found = agreement([[4, 8, 6], [4, 9, 9], [4]], [expected] * 3)
    assert (found.num_equal, found.num_answers, found.num_positions) == (2, 3, 6)
    assert found.largest_gap == 0.25
    assert str(found) == (
        "2 of 3 answers equal, 83.33 % of 6 tokens, NO NEAR TIES of 0.2500 at most"
    )
    assert agreement([[3]], [expected]).largest_gap == float("inf")


def test_the_cpus_engine_does_not_depend_on_its_batch(tiny: Llama, kernels: CpuKernels) -> None:
    engine = tiny.engine(kernels, max_batch_size=12, num_blocks=300)
    found = invariance(engine, alone(tiny, kernels, 12), crowd=9)
    assert str(found) == "3 of 3 answers equal, 100.00 % of 36 tokens"


def test_a_soak_finds_no_fault_in_the_cpus_engine(tiny: Llama, kernels: CpuKernels) -> None:
    engine = tiny.engine(kernels, num_blocks=10, prefix_caching=False)
    found = soak(engine, alone(tiny, kernels, 60), num_requests=60, num_in_flight=12)
    assert found.num_finished + found.num_cancelled == 60 and found.num_cancelled > 3
    assert found.agreement.num_equal == found.agreement.num_answers == 60
    assert found.num_leaked_blocks == found.grown_bytes == 0


def test_a_soak_sees_wrong_answers(tiny: Llama, kernels: CpuKernels) -> None:
    right = alone(tiny, kernels, 8)
    wrong = [
        dataclasses.replace(one, token_ids=tuple(t ^ 1 for t in one.token_ids)) for one in right
    ]
    found = soak(tiny.engine(kernels), wrong, num_requests=10, num_in_flight=3)
    assert found.agreement.num_equal < 10


def test_lines_for_people(
    tiny: Llama, kernels: CpuKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nimlite.bench.soak.PROMPTS", ("We", "hold these"))
    file = tiny.tokenizer_directory / "tokenizer.json"
    crowd, soaked = run_soak(tiny.engine(kernels, num_blocks=300), file, 10, 4)
    assert crowd == "in a batch of 4: 2 of 2 answers equal, 100.00 % of 128 tokens"
    assert soaked.startswith("soak: ") and soaked.endswith(
        "0 blocks leaked, memory grown by 0 bytes"
    )
