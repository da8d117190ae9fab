import pytest

from nimlite.engine.plan import SampledToken
from nimlite.engine.request import FinishReason, Logprob, Request, SamplingParams
from nimlite.engine.sequence import PRIORITY_SPAN, Sequence

EOS = 0


def sequence(*, arrival=0, priority=0, prompt=(5, 6), **params):
    request = Request(
        id="r", prompt_token_ids=prompt, params=SamplingParams(**params), priority=priority
    )
    return Sequence(request, arrival=arrival, eos_token_ids=frozenset({EOS}))


@pytest.mark.parametrize(
    ("params", "outputs", "reason"),
    [
        ({}, [3, EOS], FinishReason.STOP),
        ({"ignore_eos": True, "max_tokens": 2}, [EOS, EOS], FinishReason.LENGTH),
        ({"stop_token_ids": (3,)}, [4, 3], FinishReason.STOP),
        ({"ignore_eos": True, "stop_token_ids": (3,)}, [EOS, 3], FinishReason.STOP),
        ({"min_tokens": 2}, [EOS, EOS, EOS], FinishReason.STOP),
        ({"max_tokens": 3}, [3, 4, 5], FinishReason.LENGTH),
        ({"max_tokens": 2}, [3, EOS], FinishReason.STOP),  # both at once: it ended by itself
        ({"max_tokens": 0}, [EOS], FinishReason.LENGTH),
    ],
)
def test_the_last_token_ends_it_and_none_before(params, outputs, reason):
    running = sequence(**params)
    running.num_pending = len(outputs)
    deltas = [running.take((SampledToken(token),)) for token in outputs]
    assert [d.finish_reason for d in deltas] == [None] * (len(outputs) - 1) + [reason]
    assert running.num_pending == 0


def test_what_comes_behind_the_end_is_not_taken():
    running = sequence(logprobs=0)
    running.num_pending = 1
    tokens = (4, EOS, 7)
    delta = running.take(tuple(SampledToken(t, Logprob(t, -1.0, 1, ())) for t in tokens))
    assert (delta.token_ids, delta.finish_reason) == ((4, EOS), FinishReason.STOP)
    assert (delta.stop_token_id, len(delta.logprobs)) == (EOS, 2)
    assert running.token_ids == [5, 6, 4, EOS]


def test_an_error_behind_a_guess_waits_for_its_turn():
    running = sequence()
    running.num_pending = 2
    wrong = SampledToken(3, error="Nothing can follow.")
    assert running.take((SampledToken(4), wrong)).token_ids == (4,)
    refusal = running.take((wrong,))
    assert (refusal.finish_reason, refusal.error) == (FinishReason.REFUSED, wrong.error)


def test_a_token_that_was_not_wanted_is_dropped():
    scored = sequence(max_tokens=0)
    scored.num_pending = 1
    assert scored.take((SampledToken(3),)).token_ids == ()
    assert scored.token_ids == [5, 6]


def test_pending_tokens_count():
    running = sequence()
    running.num_pending = 2
    assert running.num_tokens == 4


def test_a_level_of_priority_outweighs_a_bounded_number_of_arrivals():
    urgent = sequence(arrival=PRIORITY_SPAN - 1, priority=-1)
    assert urgent.rank < sequence(arrival=0).rank
    late = sequence(arrival=PRIORITY_SPAN + 1, priority=-1)
    assert late.rank > sequence(arrival=0).rank


def test_prompt_logprobs_begin_with_none_and_are_needed_once():
    scored = sequence(prompt=(5, 6, 7), prompt_logprobs=0)
    assert scored.needs_prompt_logits
    known = [Logprob(6, -1.0, 1, ()), Logprob(7, -2.0, 3, ())]
    scored.prompt_logprobs += known
    assert not scored.needs_prompt_logits
    assert scored.all_prompt_logprobs() == (None, *known)
    assert sequence().all_prompt_logprobs() == ()
