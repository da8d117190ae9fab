"""The checks of an engine must pass a right one and catch a wrong one."""

import torch
from fakes.llama import Llama

from nimlite.bench.verify import agreement, gap_of, greedy, invariance, soak
from nimlite.kernels.cpu.cpu_kernels import CpuKernels

PROMPTS = [list(b"We hold these truths"[:n]) for n in (1, 5, 20)]


def test_positions_are_counted_up_to_the_first_difference() -> None:
    gap = gap_of(lambda beginning: torch.arange(10.0))
    found = agreement(
        [[1], [2], [3]], [[4, 5, 6], [7, 9, 9], [1]], [[4, 5, 6], [7, 8, 9], [1, 2]], gap
    )
    assert (found.num_equal, found.num_answers, found.num_positions) == (2, 3, 6)
    assert found.share == 1 - 1 / 6
    assert found.largest_gap == float(1 / torch.arange(10.0).std())
    assert str(found) == ("2 of 3 answers equal, 83.33 % of 6 positions, largest gap 0.330 sigma")


def test_the_cpus_engine_does_not_depend_on_its_batch(tiny: Llama, kernels: CpuKernels) -> None:
    engine = tiny.engine(kernels, max_batch_size=12, num_blocks=300)
    found = invariance(engine, PROMPTS, max_tokens=12, crowd=9)
    assert (found.num_equal, found.num_positions) == (3, 36)


def test_a_soak_finds_no_fault_in_the_cpus_engine(tiny: Llama, kernels: CpuKernels) -> None:
    engine = tiny.engine(kernels, num_blocks=10, prefix_caching=False)
    found = soak(engine, PROMPTS, 24, num_requests=60, num_in_flight=12)
    assert found.num_finished + found.num_cancelled == 60
    assert found.num_cancelled > 3
    assert found.agreement.num_equal == found.agreement.num_answers == 60
    assert found.num_leaked_blocks == found.grown_bytes == 0


def test_a_soak_sees_wrong_answers(tiny: Llama, kernels: CpuKernels, monkeypatch) -> None:
    engine = tiny.engine(kernels)
    wrong = [tuple(token ^ 1 for token in answer) for answer in greedy(engine, PROMPTS, 8)]
    monkeypatch.setattr("nimlite.bench.verify.greedy", lambda *_: wrong)
    found = soak(engine, PROMPTS, 8, num_requests=10, num_in_flight=3)
    assert found.agreement.num_equal < 10
