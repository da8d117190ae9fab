"""Beam search finds what transformers finds, on blocks that its beams share."""

import dataclasses
from collections import Counter
from typing import Any

import pytest
import torch
from fakes.driving import Outcome, drive, request
from fakes.llama import Llama
from tokenizers import Tokenizer

from nimlite.engine.device_sampler import DeviceSampler
from nimlite.engine.engine import Engine
from nimlite.engine.request import BeamSearch, FinishReason, Request
from nimlite.errors import ContextLengthError, RequestError
from nimlite.kernels.cpu.cpu_kernels import CpuKernels

PROMPTS = [b"The quick brown fox jumps over the lazy dog, and", b"A", b"0123456789 0123456789"]


def searches(
    prompt: bytes | list[int], count: int, search: BeamSearch, **params: Any
) -> list[Request]:
    """`count` requests for the texts of one search."""
    return [
        dataclasses.replace(request(f"{i}", prompt, group="g", **params), beam_search=search)
        for i in range(count)
    ]


def found_by(engine: Engine, asked: list[Request]) -> list[tuple[int, ...]]:
    outcomes = drive(engine, *asked)
    return [outcomes[each.id].token_ids for each in asked]


def transformers_finds(
    model: Llama, prompt: bytes | list[int], count: int, search: BeamSearch, **options: Any
) -> list[tuple[int, ...]]:
    texts = model.reference.generate(
        torch.tensor([list(prompt)]),
        num_beams=search.width,
        num_return_sequences=count,
        length_penalty=search.length_penalty,
        early_stopping=search.early_stopping,
        do_sample=False,
        **options,
    )
    return [tuple(text[len(prompt) :].tolist()) for text in texts]


def cut(text: tuple[int, ...], ends: tuple[int, ...]) -> tuple[int, ...]:
    """transformers pads to the longest."""
    at = next((i for i, token_id in enumerate(text) if token_id in ends), len(text))
    return text[: at + 1]


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("early", [False, True, "never"])
def test_as_transformers(penalty: float, early: Any, tiny: Llama, kernels: CpuKernels) -> None:
    """Also where texts end at different lengths: with ends that come up in them."""
    search = BeamSearch(width=4, length_penalty=penalty, early_stopping=early)
    engine = tiny.engine(kernels)
    for prompt in PROMPTS:
        likely = transformers_finds(tiny, prompt, 4, search, max_new_tokens=12, eos_token_id=None)
        ends = (likely[0][5], likely[1][2])
        expected = transformers_finds(
            tiny, prompt, 3, search, max_new_tokens=24, eos_token_id=list(ends), pad_token_id=0
        )
        asked = searches(prompt, 3, search, max_tokens=24, ignore_eos=True, stop_token_ids=ends)
        assert found_by(engine, asked) == [cut(text, ends) for text in expected]


def test_smollm2_as_transformers(smollm2: Llama, kernels: CpuKernels) -> None:
    """Texts of prose, with the model's own end, in one batch with each other and with a stream."""
    tokenizer = Tokenizer.from_file(str(smollm2.tokenizer_directory / "tokenizer.json"))
    chat = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    asked = [chat.format("Say hello."), "The capital of France"]
    prompts = [tokenizer.encode(text).ids for text in asked]
    search = BeamSearch(width=3)
    engine = smollm2.engine(kernels)
    requests = [
        dataclasses.replace(each, id=f"{number}-{each.id}", group=f"g{number}")
        for number, prompt in enumerate(prompts)
        for each in searches(prompt, 2, search, max_tokens=8)
    ]
    outcomes = drive(engine, *requests, request("alone", prompts[0], max_tokens=9))
    for number, prompt in enumerate(prompts):
        expected = transformers_finds(smollm2, prompt, 2, search, max_new_tokens=8)
        found = [outcomes[f"{number}-{i}"].token_ids for i in range(2)]
        assert found == [cut(text, smollm2.eos_token_ids) for text in expected]


def test_beams_share_the_blocks_of_what_they_have_in_common(
    tiny: Llama, kernels: CpuKernels
) -> None:
    """Of 4 beams behind a prompt of 5 blocks and a half the 5 full blocks are held once, and none
    of what they write."""
    engine = tiny.engine(kernels)
    prompt = bytes(range(88))
    for each in searches(prompt, 1, BeamSearch(width=4), max_tokens=4, ignore_eos=True):
        engine.add(each)
    for _ in range(3):
        assert engine.step() == []
    assert engine.stats.num_running == 4
    counts = Counter(engine._scheduler._pool.ref_counts)
    assert counts[4] == 5  # the prompt's full blocks
    assert counts[1] == 4  # one of each beam's own
    assert engine.stats.num_blocks - engine.stats.num_free_blocks == 9  # not 24
    while engine.has_work:
        [delta] = engine.step() or [None]
    assert delta is not None and delta.finish_reason is FinishReason.LENGTH
    assert engine.stats.num_generated_tokens == 4
    assert engine.stats.num_free_blocks == engine.stats.num_blocks


def as_found(outcomes: dict[str, Outcome]) -> list[tuple[int, ...]]:
    return [outcomes[str(i)].token_ids for i in range(3)]


def test_the_same_however_it_is_computed(tiny: Llama, kernels: CpuKernels) -> None:
    """In chunks, from the prefix cache, beside others, begun anew after it lost its blocks, and
    where steps are launched ahead."""
    search, prompt = BeamSearch(width=4), bytes(range(50, 110))
    asked = searches(prompt, 3, search, max_tokens=20, ignore_eos=True, logprobs=2)
    expected = drive(tiny.engine(kernels), *asked)
    chunked = tiny.engine(kernels, max_num_tokens=9)
    assert drive(chunked, *asked) == expected
    cached = tiny.engine(kernels)
    drive(cached, request("warm", prompt, max_tokens=1))
    again = drive(cached, *asked)
    assert as_found(again) == as_found(expected)
    assert again["0"].num_cached_tokens == 48
    others = [request(f"o{i}", prompt[i:], max_tokens=30, ignore_eos=True) for i in range(5)]
    scarce = tiny.engine(kernels, num_blocks=26, prefix_caching=False)
    beside = drive(scarce, *others, *asked)
    assert scarce.stats.num_preemptions
    assert as_found(beside) == as_found(expected)
    ahead = tiny.engine(kernels, sampler=DeviceSampler(64, torch.device("cpu")))
    assert as_found(drive(ahead, *asked)) == as_found(expected)


def test_log_probabilities_are_those_of_the_text(tiny: Llama, kernels: CpuKernels) -> None:
    prompt = b"once upon"
    asked = searches(prompt, 2, BeamSearch(width=3), max_tokens=8, ignore_eos=True, logprobs=1)
    outcomes = drive(tiny.engine(kernels), *asked)
    totals = []
    for each in asked:
        outcome = outcomes[each.id]
        text = [*prompt, *outcome.token_ids]
        logprobs_TV = tiny.reference_logits(text[:-1])[len(prompt) - 1 :].log_softmax(dim=1)
        expected = logprobs_TV.gather(1, torch.tensor(outcome.token_ids)[:, None])[:, 0]
        found = torch.tensor([logprob.logprob for logprob in outcome.logprobs])
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
        assert all(len(logprob.top) == 1 for logprob in outcome.logprobs)
        totals.append(float(found.sum()))
    assert totals == sorted(totals, reverse=True)


def test_who_leaves_takes_no_text_and_the_last_one_ends_the_search(
    tiny: Llama, kernels: CpuKernels
) -> None:
    engine = tiny.engine(kernels)
    asked = searches(b"abc", 3, BeamSearch(width=3), max_tokens=6, ignore_eos=True)
    for each in asked:
        engine.add(each)
    engine.step()
    engine.abort("0")
    found = {}
    while engine.has_work:
        found.update({delta.request_id: delta.token_ids for delta in engine.step()})
    whole = found_by(tiny.engine(kernels), asked)
    assert found == {"1": whole[1], "2": whole[2]}
    for each in asked:
        engine.add(each)
    for _ in range(3):
        engine.step()
    for each in asked:
        engine.abort(each.id)
    assert not engine.has_work
    assert engine.stats.num_free_blocks == engine.stats.num_blocks


@pytest.mark.parametrize(
    ("limits", "width", "params", "error", "sentence"),
    [
        ({"max_batch_size": 3}, 4, {}, RequestError, "4 beams were asked for, and this server runs"
         " 3 sequences at once (NIM_MAX_BATCH_SIZE). Ask for fewer."),
        ({"num_blocks": 12}, 4, {"max_tokens": 90}, ContextLengthError, "may need 28 blocks of the"
         " KV cache, and this server has 12. Lower max_tokens or the number of beams."),
        ({}, 32, {"stop_token_ids": tuple(range(20))}, RequestError, "this model has 272: ask for"),
    ],
)  # fmt: skip
def test_a_search_that_could_never_run_is_refused(
    limits: dict[str, int],
    width: int,
    params: dict[str, Any],
    error: type[Exception],
    sentence: str,
    tiny: Llama,
    kernels: CpuKernels,
) -> None:
    engine = tiny.engine(kernels, **limits)
    with pytest.raises(error) as refusal:
        engine.add(searches(b"abc", 1, BeamSearch(width=width), **params)[0])
    assert sentence in str(refusal.value)
    assert not engine.has_work
