"""A request's tokens and log-probabilities are its own: however its prompt is cut, wherever its
blocks come from and whoever runs beside it, they are the same to the last bit."""

import json
from collections.abc import Callable

import jsonschema
import pytest
import torch
from fakes.driving import Outcome, drive, request
from fakes.llama import Llama

from nimlite.engine.device_sampler import DeviceSampler
from nimlite.engine.engine import Engine
from nimlite.engine.request import FinishReason, Grammar, GrammarKind, Request
from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.kernels.cpu.library import Library
from nimlite.kernels.torch_kernels import TorchKernels
from nimlite.profiles.manifest import Precision
from nimlite.quant import SCHEMES

MakeEngine = Callable[..., Engine]
TEXT = (
    b"Fourscore and seven years ago our fathers brought forth, on this continent, a new nation, "
    b"conceived in liberty, and dedicated to the proposition that all men are created equal."
)
PROMPT = TEXT[:100]
FORM = Grammar(
    GrammarKind.JSON_SCHEMA,
    '{"type": "object", "properties": {"a": {"type": "string", "maxLength": 9}, "b": {"type": '
    '"array", "items": {"type": "boolean"}, "minItems": 4, "maxItems": 4}}, "required": ["a", "b"]'
    ', "additionalProperties": false}',
)
PROBE = {"seed": 7, "temperature": 0.7, "max_tokens": 40, "ignore_eos": True, "logprobs": 5}


def probe(request_id: str = "probe", **changes: object):
    return request(request_id, PROMPT, **(PROBE | changes))


def neighbours(count: int) -> list:
    """Others of all lengths, who end at all times."""
    return [
        request(f"other-{i}", TEXT[i:][: 1 + 37 * i % 131], max_tokens=1 + 5 * i % 37)
        for i in range(count)
    ]


def whole(make: MakeEngine) -> Outcome:
    engine = make()
    found = drive(engine, probe())["probe"]
    assert engine.stats.num_steps == 40
    return found


def in_chunks(make: MakeEngine) -> Outcome:
    engine = make(max_num_tokens=7)
    found = drive(engine, probe())["probe"]
    assert engine.stats.num_steps == 40 + 100 // 7
    return found


def from_the_prefix_cache(make: MakeEngine) -> Outcome:
    engine = make()
    drive(engine, request("warm", TEXT, max_tokens=1))
    found = drive(engine, probe())["probe"]
    assert found.num_cached_tokens == 96
    return found


def after_preemption(make: MakeEngine) -> Outcome:
    engine = make(num_blocks=16, prefix_caching=False)
    found = drive(engine, request("older", PROMPT, max_tokens=60, ignore_eos=True), probe())
    assert engine.stats.num_preemptions
    return found["probe"]


def after_preemption_of_a_cached_one(make: MakeEngine) -> Outcome:
    engine = make(num_blocks=14, max_num_tokens=13)
    found = drive(engine, request("older", TEXT, max_tokens=40, ignore_eos=True), probe())
    assert engine.stats.num_preemptions
    return found["probe"]


def beside_31_others(make: MakeEngine) -> Outcome:
    others = neighbours(31)
    return drive(make(max_num_tokens=90), *others[:15], probe(), *others[15:])["probe"]


def as_one_of_four_samples(make: MakeEngine) -> Outcome:
    seeds = {"a": 1, "b": 2, "probe": 7, "c": 3}
    samples = [probe(name, group="g", seed=seed) for name, seed in seeds.items()]
    found = drive(make(), *samples)
    assert len({outcome.token_ids for outcome in found.values()}) == 4
    return found["probe"]


VARIANTS = [
    in_chunks,
    from_the_prefix_cache,
    after_preemption,
    after_preemption_of_a_cached_one,
    beside_31_others,
    as_one_of_four_samples,
]


@pytest.mark.parametrize(
    "precision", [precision for precision in Precision if precision in SCHEMES]
)
def test_bit_for_bit_on_the_cpus_own_kernels(
    precision: Precision, tiny: Llama, library: Library
) -> None:
    def make(num_threads: int = 1, **limits: int) -> Engine:
        return tiny.engine(CpuKernels(library, num_threads), precision, **limits)

    expected = whole(make)
    assert len(set(expected.token_ids)) > 10
    found = {variant.__name__: variant(make) for variant in VARIANTS}
    found["with two threads"] = drive(make(num_threads=2), *neighbours(9), probe())["probe"]
    for name, outcome in found.items():
        assert outcome.token_ids == expected.token_ids, name
        assert outcome.logprobs == expected.logprobs, name


@pytest.mark.parametrize("runs_ahead", [False, True])
def test_bit_for_bit_with_a_grammar(tiny: Llama, kernels: CpuKernels, runs_ahead: bool) -> None:
    sampler = DeviceSampler(64, torch.device("cpu")) if runs_ahead else None

    def follow(engine: Engine, *others: Request) -> Outcome:
        params = PROBE | {"ignore_eos": False, "max_tokens": 60}
        return drive(engine, *others, request("probe", PROMPT, grammar=FORM, **params))["probe"]

    expected = follow(tiny.engine(kernels, sampler=sampler))
    assert expected.finish_reason is FinishReason.STOP
    jsonschema.validate(json.loads(bytes(expected.token_ids[:-1])), json.loads(FORM.text))
    older = request("older", PROMPT, max_tokens=80, ignore_eos=True)
    scarce = tiny.engine(kernels, num_blocks=16, prefix_caching=False, sampler=sampler)
    found = [
        follow(scarce, older),
        follow(tiny.engine(kernels, max_num_tokens=13, sampler=sampler), *neighbours(9)),
    ]
    assert scarce.stats.num_preemptions
    for outcome in found:
        assert (outcome.token_ids, outcome.logprobs) == (expected.token_ids, expected.logprobs)


def test_bit_for_bit_when_steps_are_launched_ahead(tiny: Llama, kernels: CpuKernels) -> None:
    def make(**limits: int) -> Engine:
        return tiny.engine(kernels, sampler=DeviceSampler(64, torch.device("cpu")), **limits)

    expected = whole(lambda: tiny.engine(kernels))
    for variant in VARIANTS:
        found = variant(make)
        assert found.token_ids == expected.token_ids, variant.__name__
        assert found.logprobs == expected.logprobs, variant.__name__


def test_within_rounding_in_torch(tiny: Llama) -> None:
    def make(**limits: int) -> Engine:
        return tiny.engine(TorchKernels(), **limits)

    expected = whole(make)
    for variant in VARIANTS:
        found = variant(make)
        assert found.token_ids == expected.token_ids, variant.__name__
        assert [p.logprob for p in found.logprobs] == pytest.approx(
            [p.logprob for p in expected.logprobs], abs=1e-4
        )
