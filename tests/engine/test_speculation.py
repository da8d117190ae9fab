"""Guesses change how many steps a text takes, and never the text."""

import itertools
from collections import Counter

import pytest
import torch
from fakes.driving import drive, request
from fakes.llama import Llama

from nimlite.engine.device_sampler import DeviceSampler
from nimlite.engine.request import Grammar, GrammarKind, Request, SamplingParams
from nimlite.engine.sampler import SamplingRow, sample
from nimlite.engine.sequence import Sequence
from nimlite.engine.speculation import Speculation, Speculator, StepCosts, accepted
from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.models.embedding import Pooling

COPIED = b"The quick brown fox jumps over the lazy dog. The quick brown fox"
VOCABULARY = 5


class Eager(Speculator):
    """Knows no costs, so that every guess looks cheap."""

    def observe(self, num_rows: int, seconds: float) -> None:
        pass


class Prompter(Eager):
    """Guesses what another engine has sampled, with every fifth token wrong."""

    def __init__(self, expected: dict[str, tuple[int, ...]]) -> None:
        super().__init__(Speculation(num_tokens=6))
        self._expected = expected

    def draft(self, sequence: Sequence, num_sequences: int, num_rows: int, room: int) -> list[int]:
        outputs = len(sequence.token_ids) - sequence.num_prompt_tokens
        known = self._expected[sequence.request.id]
        guessed = [(t + (i % 5 == 4)) % 256 for i, t in enumerate(known)]
        return guessed[outputs : outputs + min(room, 6)]


def speculator(num_tokens: int = 8) -> Eager:
    return Eager(Speculation(num_tokens=num_tokens))


def sequence(tokens: list[int], **options: object) -> Sequence:
    made = Request(id="r", prompt_token_ids=tuple(tokens), params=SamplingParams(), **options)
    return Sequence(made, arrival=0, eos_token_ids=frozenset({0}))


def observe(costs: StepCosts | Speculator, seconds: dict[int, float]) -> None:
    for num_rows, each in seconds.items():
        for _ in range(3):
            costs.observe(num_rows, each)


PARAMS = {
    "greedy": {},
    "sampled": {"temperature": 0.9, "top_p": 0.95, "seed": 3, "logprobs": 2},
    "penalized": {
        "temperature": 0.8,
        "seed": 4,
        "repetition_penalty": 1.2,
        "frequency_penalty": 0.3,
        "presence_penalty": 0.1,
        "logit_bias": {65: 3.0},
        "min_tokens": 9,
        "stop_token_ids": tuple(range(100, 120)),
    },
}


def requests() -> list[Request]:
    of_params = [request(n, COPIED, max_tokens=40, **params) for n, params in PARAMS.items()]
    grammar = Grammar(GrammarKind.REGEX, "(ab+c?){4,12}")
    return [*of_params, request("grammar", COPIED, max_tokens=40, grammar=grammar, seed=1)]


def test_right_and_wrong_guesses_leave_every_answer_as_it_was(
    tiny: Llama, kernels: CpuKernels
) -> None:
    plain = drive(tiny.engine(kernels), *requests())
    expected = {name: outcome.token_ids for name, outcome in plain.items()}
    engine = tiny.engine(kernels, speculator=Prompter(expected))
    assert drive(engine, *requests()) == plain
    stats = engine.stats
    assert 0 < stats.num_accepted_tokens < stats.num_drafted_tokens
    assert stats.num_steps < 30


@pytest.mark.parametrize(
    "limits", [{}, {"num_blocks": 10}, {"max_num_tokens": 12}, {"max_batch_size": 3}]
)
def test_prompt_lookup_leaves_every_answer_as_it_was(
    limits: dict[str, int], tiny: Llama, kernels: CpuKernels
) -> None:
    """With room, in a pool where sequences are preempted, in chunks, and with few rows."""
    plain = drive(tiny.engine(kernels), *requests())
    engine = tiny.engine(kernels, speculator=speculator(), **limits)
    found = drive(engine, *requests())
    assert {n: o.token_ids for n, o in found.items()} == {n: o.token_ids for n, o in plain.items()}
    assert engine.stats.num_drafted_tokens


def test_text_that_is_copied_takes_fewer_steps(tiny: Llama, kernels: CpuKernels) -> None:
    """A greedy text of a tiny model goes round in circles."""
    asked = request("r", COPIED, max_tokens=120, ignore_eos=True)
    engine = tiny.engine(kernels, speculator=speculator())
    assert drive(engine, asked) == drive(tiny.engine(kernels), asked)
    assert engine.stats.num_steps < 100
    assert engine.stats.num_accepted_tokens == 120 - engine.stats.num_steps


def test_where_steps_overlap_guesses_wait_for_their_tokens(
    tiny: Llama, kernels: CpuKernels
) -> None:
    """As on a GPU, where the next step is launched before the tokens of the last are known: guesses
    need these, and without hope for a guess the steps overlap again."""
    sampler = DeviceSampler(64, torch.device("cpu"))
    asked = [
        request("copy", COPIED, max_tokens=60, ignore_eos=True),
        request("none", COPIED, max_tokens=60, ignore_eos=True, seed=1, temperature=1.0),
        request("grammar", COPIED, max_tokens=40, grammar=Grammar(GrammarKind.REGEX, "(ab)*")),
    ]
    plain = drive(tiny.engine(kernels), *asked)
    engine = tiny.engine(kernels, sampler=sampler, speculator=speculator())
    assert drive(engine, *asked) == plain
    assert engine.stats.num_accepted_tokens > 20


def test_a_request_may_ask_for_fewer_guesses_or_none(tiny: Llama, kernels: CpuKernels) -> None:
    none = sequence([1, 2, 3, 1, 2, 3], num_speculative_tokens=0)
    two = sequence([1, 2, 3, 1, 2, 3], num_speculative_tokens=2)
    assert speculator().draft(none, 1, 1, 9) == []
    assert speculator().draft(two, 1, 1, 9) == [1, 2]
    assert speculator(num_tokens=1).draft(two, 1, 1, 9) == [1]
    text = sequence([1, 2, 3, 1, 2, 3], pooling=Pooling.LAST)
    assert not speculator().promises(text) and not speculator().draft(text, 1, 1, 9)
    assert speculator().draft(sequence([1, 2, 3, 1, 2, 3]), 1, 1, 4) == [1, 2, 3, 1]


def test_the_end_of_a_text_is_not_guessed() -> None:
    assert speculator().draft(sequence([1, 2, 3, 0, 1, 2]), 1, 1, 9) == [3]


def test_the_distribution_of_a_text_does_not_depend_on_the_guesses() -> None:
    """Of three tokens of a small language, of which each depends on the one before: chi-square over
    all of its texts, with guesses that are good, bad, and none."""
    logits_VV = torch.randn((VOCABULARY, VOCABULARY), generator=torch.Generator().manual_seed(5))
    probs_VV = logits_VV.softmax(dim=1)
    params = SamplingParams(temperature=1.0)

    def text(seed: int, drafts: tuple[int, ...]) -> tuple[int, ...]:
        tokens = [0]
        while len(tokens) < 4:
            drafted = drafts if len(tokens) == 1 else ()
            behind = [tokens[-1], *drafted]
            rows = [
                SamplingRow(
                    params, seed, len(tokens) - 1 + i, [], 0, guess=drafted[i - 1] if i else None
                )
                for i in range(len(behind))
            ]
            tokens += [t.token_id for t in accepted(drafted, sample(logits_VV[behind], rows))]
        return tuple(tokens[1:4])

    count = 4000
    likeliest = int(probs_VV[0].argmax())
    for drafts in [
        (),
        (likeliest, int(probs_VV[likeliest].argmax())),
        (int(probs_VV[0].argmin()),),
    ]:
        seen = Counter(text(seed, drafts) for seed in range(count))
        statistic = 0.0
        for a, b, c in itertools.product(range(VOCABULARY), repeat=3):
            expected = count * float(probs_VV[0, a] * probs_VV[a, b] * probs_VV[b, c])
            statistic += (seen[a, b, c] - expected) ** 2 / expected
        assert statistic < 200  # 124 degrees of freedom: more by chance once in 15,000 times


class TestStepCosts:
    def test_between_two_known_ones_is_the_line_and_outside_the_nearest(self) -> None:
        costs = StepCosts()
        assert costs(3) == 0.0
        observe(costs, {2: 1.0, 6: 3.0})
        assert [costs(n) for n in (1, 2, 4, 6, 9)] == [1.0, 1.0, 2.0, 3.0, 3.0]

    def test_a_long_step_does_not_show_and_a_change_does(self) -> None:
        costs = StepCosts()
        for seconds in [100.0, 1.0]:
            costs.observe(1, seconds)
        assert costs(1) == 0.0  # twice is not enough to say
        costs.observe(1, 50.0)
        assert costs(1) == 1.0
        for _ in range(16):
            costs.observe(1, 2.0)
        assert costs(1) == 2.0

    def test_more_rows_never_take_less(self) -> None:
        costs = StepCosts()
        observe(costs, {4: 9.0, 8: 2.0})
        assert [costs(n) for n in (1, 4, 8)] == [2.0, 2.0, 2.0]

    def test_what_is_not_measured_again_is_forgotten(self) -> None:
        costs = StepCosts()
        observe(costs, {9: 50.0})
        for _ in range(600):
            costs.observe(1, 1.0)
        assert costs(9) == 1.0


class TestWhetherItPays:
    def timed(self, *seconds: float) -> Speculator:
        made = Speculator(Speculation())
        observe(made, dict(enumerate(seconds, start=1)))
        return made

    def test_rows_that_cost_as_much_as_steps_are_not_guessed(self) -> None:
        text = [1, 2, 3, 1, 2, 3]
        free = self.timed(*[1.0] * 9)
        dear = self.timed(*[float(n) for n in range(1, 10)])
        assert free.can_pay(1) and not dear.can_pay(1)
        assert len(free.draft(sequence(text), 1, 1, 9)) == 8

    def test_what_has_been_wrong_is_guessed_no_more_until_it_comes_true_again(self) -> None:
        made = self.timed(*[1.0 + 0.2 * n for n in range(9)])
        text = sequence([1, 2, 3, 1, 2, 3])
        assert made.draft(text, 1, 1, 9)
        for wrong in range(10, 40):
            text.token_ids += [wrong, 2, 3]
            drafted = made.draft(text, 1, 1, 9)
        assert not drafted
        for _ in range(30):
            text.token_ids += [2, 3]
            drafted = made.draft(text, 1, 1, 9)
        assert drafted

    def test_a_full_batch_leaves_no_room(self) -> None:
        made = self.timed(*[1.0 + 0.1 * n for n in range(40)])
        text = [1, 2, 3, 1, 2, 3]
        assert made.draft(sequence(text), 4, 4, 9)
        assert not made.draft(sequence(text), 30, 30, 9)
