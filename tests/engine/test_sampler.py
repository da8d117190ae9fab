import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nimlite.engine.device_sampler import DeviceSampler
from nimlite.engine.request import SamplingParams
from nimlite.engine.sampler import HostSampler, Sampler, SamplingRow, logprob_of, uniform
from nimlite.engine.token_masks import TokenMask

VOCAB = 300


def row(seed: int = 0, index: int = 0, tokens=(1, 2, 3), prompt=2, suppressed=(), **params):
    return SamplingRow(
        params=SamplingParams(**params),
        seed=seed,
        output_index=index,
        token_ids=list(tokens),
        num_prompt_tokens=prompt,
        suppressed=suppressed,
    )


def random_logits(rows: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.fixture(params=["host", "device"], scope="module")
def sampler(request):
    """Both samplers choose alike. The device's draws are tested with its kernel."""
    if request.param == "host":
        return HostSampler()
    return DeviceSampler(max_rows=8, where=torch.device("cpu"))


def choose(sampler: Sampler, logits_V: torch.Tensor, sampling_row: SamplingRow) -> int:
    return sampler.launch(logits_V[None], [sampling_row])()[0].token_id


def allowed_tokens(logits_V: torch.Tensor, params: SamplingParams) -> set[int]:
    """What temperature, min-p, top-k and top-p leave, by the book: sorted, filtered one after the
    other."""
    probs = (logits_V.double() / params.temperature).softmax(-1)
    order = [
        i for i in probs.argsort(descending=True).tolist() if probs[i] >= params.min_p * probs.max()
    ]
    if params.top_k:
        order = order[: params.top_k]
    total, kept, mass = sum(float(probs[i]) for i in order), [], 0.0
    for i in order:
        if mass >= params.top_p * total:
            break
        kept.append(i)
        mass += float(probs[i])
    return set(kept)


def test_temperature_zero_takes_the_most_likely_token_of_each_row(sampler):
    logits = random_logits(5)
    tokens = sampler.launch(logits, [row(temperature=0.0) for _ in range(5)])()
    assert [t.token_id for t in tokens] == logits.argmax(-1).tolist()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 2, 7, 290, 300, 1000]),
    top_p=st.sampled_from([0.01, 0.5, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.9]),
)
def test_only_tokens_that_the_filters_leave_are_drawn(seed, temperature, top_k, top_p, min_p):
    logits = random_logits(seed=seed)[0]
    params = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    allowed = allowed_tokens(logits, SamplingParams(**params))
    drawn = {choose(HostSampler(), logits, row(seed=seed, index=i, **params)) for i in range(40)}
    assert drawn <= allowed
    if len(allowed) == 1:
        assert drawn == allowed


@pytest.mark.parametrize("filters", [{}, {"top_k": 6}, {"top_p": 0.8}, {"min_p": 0.1}])
def test_draws_follow_the_distribution(filters):
    logits = torch.full((VOCAB,), -torch.inf)
    logits[10:20] = torch.linspace(-1.5, 1.5, 10)
    params = SamplingParams(temperature=0.8, **filters)
    allowed = sorted(allowed_tokens(logits, params))
    expected = (logits[allowed] / 0.8).softmax(-1)
    draws = 4000
    counts = torch.zeros(VOCAB)
    for i in range(draws):
        counts[choose(HostSampler(), logits, row(seed=7, index=i, temperature=0.8, **filters))] += 1
    assert counts.sum() == counts[allowed].sum()
    chi_square = float(((counts[allowed] - draws * expected) ** 2 / (draws * expected)).sum())
    # the 99.99 % quantile for up to 9 degrees of freedom
    assert chi_square < 33.7


@pytest.mark.parametrize("temperature", [1e-5, 1e-30, 1e-46])
def test_a_temperature_near_zero_takes_the_most_likely_token(sampler, temperature):
    logits = random_logits()[0]
    assert choose(sampler, logits, row(temperature=temperature)) == int(logits.argmax())


def test_penalties_of_outputs_do_nothing_before_the_first(sampler):
    logits = random_logits()[0]
    first = row(tokens=(1, 2), prompt=2, frequency_penalty=2.0, presence_penalty=2.0, temperature=0)
    assert choose(sampler, logits, first) == int(logits.argmax())


def test_a_row_does_not_depend_on_its_neighbours(sampler):
    logits = random_logits(8, seed=3)
    rows = [row(seed=i, temperature=1.0, top_p=0.9, top_k=5 * (i % 3)) for i in range(8)]
    together = [t.token_id for t in sampler.launch(logits, rows)()]
    assert together == [choose(sampler, logits[i], rows[i]) for i in range(8)]


def test_seeds_and_positions_give_different_numbers():
    numbers = {uniform(seed, index) for seed in range(30) for index in range(30)}
    assert len(numbers) == 900
    assert all(0 <= u < 1 for u in numbers)
    assert abs(sum(numbers) / 900 - 0.5) < 0.05


def test_penalties_lower_what_was_seen(sampler):
    logits = torch.zeros(VOCAB)
    logits[[1, 2, 3, 4]] = torch.tensor([4.0, 3.0, 2.9, 2.0])
    # token 1 only in the prompt, token 2 once and token 3 twice among the outputs
    seen = {"tokens": (1, 1, 2, 3, 3), "prompt": 2, "temperature": 0.0}
    assert choose(sampler, logits, row(**seen)) == 1
    assert choose(sampler, logits, row(**seen, presence_penalty=1.5, logit_bias={1: -100})) == 4
    assert choose(sampler, logits, row(**seen, frequency_penalty=0.4, logit_bias={1: -100})) == 2
    assert choose(sampler, logits, row(**seen, repetition_penalty=2.5)) == 4


def test_repetition_penalty_lowers_negative_logits_too(sampler):
    logits = torch.full((VOCAB,), -5.0)
    logits[[1, 2]] = torch.tensor([-1.0, -1.5])
    assert (
        choose(sampler, logits, row(tokens=(1,), prompt=1, temperature=0.0, repetition_penalty=2.0))
        == 2
    )


def test_bias_and_suppression_apply_to_greedy_and_to_sampling(sampler):
    logits = random_logits()[0]
    best = int(logits.argmax())
    for temperature in (0.0, 0.01):
        assert choose(sampler, logits, row(temperature=temperature, suppressed=(best,))) != best
        assert choose(sampler, logits, row(temperature=temperature, logit_bias={5: 100.0})) == 5


def test_logprobs_are_the_models_own(sampler):
    logits = random_logits(seed=1)[0]
    tokens = sampler.launch(
        logits[None], [row(temperature=0.0, logit_bias={7: 100.0}, logprobs=3)]
    )()
    logprob = tokens[0].logprob
    expected = logits.double().log_softmax(-1)
    order = expected.argsort(descending=True).tolist()
    assert logprob.token_id == 7
    assert math.isclose(logprob.logprob, float(expected[7]), abs_tol=1e-5)
    assert logprob.rank == order.index(7) + 1
    assert [i for i, _ in logprob.top] == order[:3]
    assert logprob_of(logits, order[0], 0).top == ()


def mask_of(allowed: dict[int, set[int]]) -> TokenMask:
    """By row, the tokens that a grammar leaves."""
    bits = np.zeros((len(allowed), -(-VOCAB // 32) * 32), np.uint8)
    for place, tokens in enumerate(allowed.values()):
        bits[place, sorted(tokens)] = 1
    packed = np.packbits(bits, axis=1, bitorder="little").view(np.uint32)
    return TokenMask(rows=tuple(allowed), bits_GW=packed, errors={})


def test_a_mask_leaves_the_other_rows_and_the_logprobs_alone(sampler):
    logits = random_logits(3)
    best = logits.argsort(descending=True)
    rows = [
        row(temperature=0.0),
        row(temperature=0.0, logit_bias={int(best[1, 0]): 100.0}, logprobs=1),
        row(temperature=1.0, top_k=1),
    ]
    left = {1: {int(best[1, 9]), int(best[1, 4]), 299}, 2: {int(best[2, 7]), int(best[2, 8])}}
    before = logits.clone()
    tokens = sampler.launch(logits, rows, mask_of(left))()
    assert [t.token_id for t in tokens] == [int(best[0, 0]), int(best[1, 4]), int(best[2, 7])]
    assert (tokens[1].logprob.rank, tokens[1].logprob.top[0][0]) == (5, int(best[1, 0]))
    assert torch.equal(logits, before)


def test_draws_stay_inside_the_mask(sampler):
    left = {3, 64, 255}
    logits, mask = torch.zeros(1, VOCAB), mask_of({0: left})
    for params in ({}, {"top_p": 0.9}, {"min_p": 0.5}, {"top_k": 50, "frequency_penalty": 1.0}):
        rows = [row(seed=seed, temperature=1.5, **params) for seed in range(12)]
        assert {sampler.launch(logits, [one], mask)()[0].token_id for one in rows} == left


def test_a_token_that_only_the_device_knows_is_counted():
    sampler = DeviceSampler(max_rows=8, where=torch.device("cpu"))
    logits = torch.zeros(2, VOCAB)
    logits[:, [1, 2]] = torch.tensor([4.0, 3.5])
    params = {"temperature": 0.0, "frequency_penalty": 1.0}
    first = row(tokens=(9,), prompt=1, **params)
    assert [t.token_id for t in sampler.launch(logits, [row(temperature=0.0), first])()] == [1, 1]
    second = first._replace(output_index=1, pending_row=1)
    assert choose(sampler, logits[0], second) == 2


def test_a_step_may_sample_nothing(sampler):
    assert sampler.launch(torch.zeros(0, VOCAB), [])() == []
