"""Figures from times that are known."""

import pytest

from nimlite.bench.timing import Percentiles, RequestTiming, best, summarize
from nimlite.bench.workload import Workload, make_prompts

WORKLOAD = Workload(concurrency=2, num_requests=2, num_prompt_tokens=10, num_output_tokens=3)


def timing(sent: float, *arrivals: float) -> RequestTiming:
    return RequestTiming(sent=sent, arrivals=arrivals, num_prompt_tokens=10, num_output_tokens=3)


def test_figures_of_a_run() -> None:
    run = summarize("a", "b", WORKLOAD, [timing(0, 1, 2, 3), timing(1, 3, 3.5, 4)], 0.5)
    assert (run.seconds, run.num_prompt_tokens, run.num_output_tokens) == (4, 20, 6)
    assert run.output_tok_s == 1.5
    assert run.decode_tok_s == 1.5
    assert run.time_to_first_token_ms == Percentiles(1500, 1990)
    assert run.inter_token_ms == Percentiles(750, 1000)


def test_one_duration_is_every_percentile() -> None:
    assert Percentiles.of([0.25]) == Percentiles(250, 250)


def test_the_best_run_is_the_fastest() -> None:
    slow = summarize("a", "b", WORKLOAD, [timing(0, 1, 2, 9)])
    fast = summarize("a", "b", WORKLOAD, [timing(0, 1, 2, 3)])
    assert best([slow, fast, slow]) is fast


@pytest.mark.parametrize("num_requests", [1, 64])
def test_prompts_share_no_beginning(num_requests: int) -> None:
    workload = Workload(
        concurrency=1, num_requests=num_requests, num_prompt_tokens=200, num_output_tokens=1
    )
    prompts = make_prompts(workload, seed=1) + make_prompts(workload, seed=2)
    assert len({prompt[:6] for prompt in prompts}) == 2 * num_requests
    assert {len(prompt.split()) for prompt in prompts} == {150}
    assert make_prompts(workload, seed=1) == prompts[:num_requests]
