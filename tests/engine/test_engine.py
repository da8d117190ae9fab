"""What a request may ask, through scheduler, runner and sampler."""

import pytest
import torch
from fakes.driving import Outcome, drive, request
from fakes.llama import EOS_ID, Llama

from nimlite.engine.engine import Engine
from nimlite.engine.request import FinishReason
from nimlite.kernels.cpu.cpu_kernels import CpuKernels

TEXT = b"We hold these truths to be self-evident, that all men are created equal."


@pytest.fixture
def engine(tiny: Llama, kernels: CpuKernels) -> Engine:
    return tiny.engine(kernels)


def only(engine: Engine, prompt: bytes = TEXT, **params: object) -> Outcome:
    return drive(engine, request("only", prompt, **params))["only"]


@pytest.mark.parametrize("limits", [{}, {"max_num_tokens": 50, "num_blocks": 40}])
@pytest.mark.parametrize("max_tokens", [0, 5])
def test_prompt_logprobs_equal_transformers(
    tiny: Llama, kernels: CpuKernels, limits: dict[str, int], max_tokens: int
) -> None:
    engine = tiny.engine(kernels, **limits)
    prompt = TEXT * 3  # more than the rows of logits in one step
    asked = {"prompt_logprobs": 4, "max_tokens": max_tokens, "ignore_eos": True}
    outcomes = drive(engine, *(request(str(i), prompt, **asked) for i in range(3)))
    expected_TV = tiny.reference_logits(prompt).log_softmax(dim=1)
    for outcome in outcomes.values():
        assert len(outcome.token_ids) == max_tokens
        assert outcome.prompt_logprobs[0] is None
        assert [found.token_id for found in outcome.prompt_logprobs[1:]] == list(prompt[1:])
        for found, expected_V in zip(outcome.prompt_logprobs[1:], expected_TV, strict=False):
            assert found.logprob == pytest.approx(float(expected_V[found.token_id]), abs=1e-4)
            assert found.rank == 1 + int((expected_V > expected_V[found.token_id]).sum())
            best = expected_V.topk(4)
            assert [i for i, _ in found.top] == best.indices.tolist()
            assert [p for _, p in found.top] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_generation_follows_the_models_distribution(tiny: Llama, engine: Engine) -> None:
    samples = [
        request(str(i), TEXT, group="g", seed=i, temperature=0.8, max_tokens=1) for i in range(600)
    ]
    expected = (tiny.reference_logits(TEXT)[-1] / 0.8).softmax(dim=0)
    counts = torch.zeros(len(expected))
    for outcome in drive(engine, *samples).values():
        counts[outcome.token_ids[0]] += 1
    likely = expected.topk(5).indices
    deviation = (counts[likely] - 600 * expected[likely]).abs()
    assert (deviation < 4 * (600 * expected[likely]).sqrt()).all()


def test_the_end_of_sequence_and_stop_tokens(engine: Engine) -> None:
    sampled = {"temperature": 1.0, "seed": 0, "max_tokens": 30, "ignore_eos": True}
    free = only(engine, **sampled).token_ids
    stop = next(token for token in free[5:] if free.index(token) >= 5)
    at = free.index(stop)
    stopped = only(engine, **sampled, stop_token_ids=(stop,))
    assert (stopped.token_ids, stopped.finish_reason) == (free[: at + 1], FinishReason.STOP)
    # Biased towards it, the end comes at once, unless it is to be ignored.
    eos = {"logit_bias": {EOS_ID: 100.0}, "max_tokens": 4}
    assert only(engine, **eos).token_ids == (EOS_ID,)
    ignored = only(engine, **eos, ignore_eos=True)
    assert (ignored.token_ids, ignored.finish_reason) == ((EOS_ID,) * 4, FinishReason.LENGTH)


def test_no_stop_before_min_tokens(engine: Engine) -> None:
    found = only(engine, logit_bias={EOS_ID: 100.0, 65: 50.0}, stop_token_ids=(66,), min_tokens=3)
    assert found.token_ids == (65, 65, 65, EOS_ID)
    assert found.finish_reason is FinishReason.STOP


@pytest.mark.parametrize(
    "penalty",
    [{"frequency_penalty": 2.0}, {"presence_penalty": 2.0}, {"repetition_penalty": 1.8}],
    ids=lambda penalty: next(iter(penalty)),
)
def test_penalties_follow_their_definitions(
    penalty: dict[str, float], tiny: Llama, engine: Engine
) -> None:
    found = only(engine, max_tokens=20, ignore_eos=True, **penalty).token_ids
    expected: list[int] = []
    for _ in range(20):
        logits = tiny.reference_logits(list(TEXT) + expected)[-1].clone()
        for token in set(expected):
            logits[token] -= penalty.get("frequency_penalty", 0) * expected.count(token)
            logits[token] -= penalty.get("presence_penalty", 0)
        if factor := penalty.get("repetition_penalty"):
            for token in {*TEXT, *expected}:
                logits[token] *= 1 / factor if logits[token] > 0 else factor
        expected.append(int(logits.argmax()))
    assert list(found) == expected
    assert found != only(engine, max_tokens=20, ignore_eos=True).token_ids


def test_samples_of_a_group_share_the_blocks_of_their_prompt(engine: Engine) -> None:
    prompt = (TEXT * 3)[:200]  # 12 whole blocks and a half
    for i in range(8):
        engine.add(request(str(i), prompt, group="g", seed=i, temperature=1.0, max_tokens=50))
    for _ in range(3):
        engine.step()
    stats = engine.stats
    assert stats.num_running == 8
    assert stats.num_blocks - stats.num_free_blocks == 12 + 8
    for i in range(8):
        engine.abort(str(i))
    assert engine.stats.num_free_blocks == engine.stats.num_blocks
    assert not engine.has_work


def test_two_engines_in_one_process(tiny: Llama, kernels: CpuKernels) -> None:
    pair = [tiny.engine(kernels, num_blocks=n) for n in (64, 128)]
    asked = request("only", TEXT, temperature=1.0, seed=5, max_tokens=20)
    for engine in pair:
        engine.add(asked)
    found: list[list[int]] = [[], []]
    while any(engine.has_work for engine in pair):
        for engine, tokens in zip(pair, found, strict=True):
            tokens += [token for delta in engine.step() for token in delta.token_ids]
    assert found == [list(drive(tiny.engine(kernels), asked)["only"].token_ids)] * 2
