"""One test a rule. `Simulation` checks the integrity of the pool after every move of its own."""

import dataclasses

import pytest
from fake_runner import EOS, Simulation, generate_alone

from nimlite.engine.accounts import Accounts
from nimlite.engine.plan import SampledToken, StepOutput
from nimlite.engine.request import (
    BeamSearch,
    FinishReason,
    Grammar,
    GrammarKind,
    Request,
    SamplingParams,
)
from nimlite.engine.sequence import PRIORITY_SPAN
from nimlite.errors import ContextLengthError, RequestError


def request(name, prompt=(1, 2, 3), *, priority=0, group=None, client="", weight=1.0, **params):
    """A request that runs to its max_tokens unless told otherwise."""
    params = SamplingParams(**{"ignore_eos": True, "seed": 0, "max_tokens": 4, **params})
    return Request(
        id=name,
        prompt_token_ids=tuple(prompt),
        params=params,
        priority=priority,
        group=group,
        client=client,
        weight=weight,
    )


def prompt_of(length, first=1):
    return (first, *range(2, length + 1))


def simulate(*requests, **options):
    simulation = Simulation(**options)
    for item in requests:
        simulation.scheduler.add(item)
    return simulation


def chunks(plan):
    """What a plan computes, as (id, start, number of tokens)."""
    return [(c.sequence.request.id, c.start, c.num_tokens) for c in plan.chunks]


def test_decodes_come_first_and_prompts_share_what_is_left_of_the_budget():
    simulation = simulate(request("a"), max_num_tokens=6)
    assert chunks(simulation.step()) == [("a", 0, 3)]
    simulation.scheduler.add(request("b", prompt_of(12)))
    simulation.scheduler.add(request("c"))
    assert chunks(simulation.step()) == [("a", 3, 1), ("b", 0, 5)]
    assert chunks(simulation.step()) == [("a", 4, 1), ("b", 5, 5)]
    plan = simulation.step()
    assert chunks(plan) == [("a", 5, 1), ("b", 10, 2), ("c", 0, 3)]
    assert [chunk.samples for chunk in plan.chunks] == [True, True, True]
    assert [chunk.num_logit_rows for chunk in plan.chunks] == [1, 1, 1]


def test_a_chunk_that_ends_inside_the_prompt_needs_no_logits():
    plan = simulate(request("a", prompt_of(9)), max_num_tokens=6).step()
    assert [(chunk.samples, chunk.num_logit_rows) for chunk in plan.chunks] == [(False, 0)]


def test_no_more_than_max_num_seqs_run():
    simulation = simulate(*(request(name) for name in "abc"), max_num_seqs=2)
    assert chunks(simulation.step()) == [("a", 0, 3), ("b", 0, 3)]
    assert simulation.scheduler.stats().num_waiting == 1
    simulation.run()


def test_admission_goes_by_priority_then_arrival():
    simulation = simulate(
        request("a", priority=1), request("b"), request("c", priority=-1), request("d")
    )
    assert [name for name, *_ in chunks(simulation.step())] == ["c", "b", "d", "a"]


def test_a_stream_of_urgent_requests_does_not_starve_another():
    simulation = simulate(request("patient", priority=1), max_num_seqs=1)
    for arrival in range(PRIORITY_SPAN + 10):
        simulation.scheduler.add(request(f"urgent-{arrival}", max_tokens=1))
        simulation.step()
    assert "patient" in simulation.deltas


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize(
    "limits",
    [{"max_num_seqs": 2}, {"num_blocks": 6, "block_size": 4}],
    ids=["seats lack", "blocks lack"],
)
def test_an_urgent_request_takes_the_place_of_a_less_urgent_one(limits, depth):
    plain = [
        request(name, prompt_of(6, first), max_tokens=12) for name, first in (("a", 1), ("b", 9))
    ]
    simulation = simulate(*plain, depth=depth, **limits)
    simulation.step()
    urgent = request("urgent", prompt_of(8, 5), priority=-1, max_tokens=3)
    simulation.scheduler.add(urgent)
    running = [name for name, *_ in chunks(simulation.step())]
    assert running == ["a", "urgent"]
    assert simulation.scheduler.stats().num_preemptions == 1
    simulation.run()
    for each in (*plain, urgent):
        assert simulation.result(each.id) == generate_alone(each)


def test_an_urgent_request_takes_the_place_of_a_search_whose_beams_are_still_to_come():
    search = dataclasses.replace(request("search", priority=1), beam_search=BeamSearch(width=4))
    simulation = simulate(search, max_num_seqs=4)
    simulation.step()
    simulation.scheduler.add(request("urgent", priority=-1))
    assert [name for name, *_ in chunks(simulation.step())] == ["urgent"]
    simulation.run()


def test_an_equal_or_less_urgent_request_takes_nobodys_place():
    simulation = simulate(request("a", priority=1, max_tokens=9), max_num_seqs=1)
    simulation.step()
    simulation.scheduler.add(request("b", priority=1))
    simulation.scheduler.add(request("c", priority=2, client="another"))
    assert [name for name, *_ in chunks(simulation.step())] == ["a"]


def test_a_client_with_a_thousand_requests_does_not_starve_another():
    simulation = simulate(
        *(request(f"many-{n}", client="many") for n in range(1000)), max_num_seqs=4
    )
    for _ in range(20):
        simulation.step()
    simulation.scheduler.add(request("one", client="few"))
    num_steps = 0
    while "one" not in {name for name, *_ in chunks(simulation.step())}:
        num_steps += 1
    assert num_steps <= 4  # the first seat that becomes free


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_clients_that_wait_get_tokens_by_their_weights(weight):
    simulation = simulate(max_num_seqs=4, num_blocks=100)
    for n in range(400):  # of one the requests are longer
        simulation.scheduler.add(request(f"long-{n}", client="long", max_tokens=20))
        simulation.scheduler.add(request(f"short-{n}", client="short", weight=weight))
    served = {"long": 0, "short": 0}
    for _ in range(300):
        for name, _, num_tokens in chunks(simulation.step()):
            served[name.partition("-")[0]] += num_tokens
    assert served["short"] / served["long"] == pytest.approx(weight, rel=0.15)


def test_a_pause_earns_no_credit_and_counters_are_forgotten():
    accounts = Accounts()
    busy, idle = accounts.join("busy", 1.0), accounts.join("idle", 1.0)
    accounts.leave(idle)
    busy.charge(1000)
    back = accounts.join("idle", 1.0)
    assert back.served == 1000
    back.charge(50)
    accounts.leave(back)
    assert accounts.join("idle", 1.0).served == 1050  # nor is what it had forgotten
    accounts.leave(back)
    for name in range(100):
        accounts.leave(accounts.join(f"once-{name}", 1.0))
    assert len(accounts) <= 3
    accounts.leave(busy)
    assert accounts.join("new", 1.0).served == 0
    assert len(accounts) == 1


def test_a_large_request_is_not_passed_by_small_ones():
    simulation = simulate(
        request("running", max_tokens=20), num_blocks=8, block_size=4, max_model_len=32
    )
    simulation.step()
    simulation.scheduler.add(request("large", prompt_of(28), max_tokens=1))
    simulation.scheduler.add(request("small"))
    assert chunks(simulation.step()) == [("running", 3, 1)]
    simulation.run()


def test_admission_leaves_every_running_sequence_a_block_to_grow_by():
    simulation = simulate(request("a", prompt_of(8)), num_blocks=6, block_size=4)
    simulation.step()
    simulation.scheduler.add(request("b", prompt_of(16, first=9)))  # 2 + 4 blocks would fit
    assert chunks(simulation.step()) == [("a", 8, 1)]


@pytest.mark.parametrize(
    ("priorities", "victim"),
    [({"a": 0, "b": 0}, "b"), ({"a": 1, "b": 0}, "a")],
    ids=["newest", "least urgent"],
)
def test_the_last_in_rank_is_preempted_and_recomputed_from_the_cache(priorities, victim):
    # 3 blocks each after the first token; the ninth block is the first that is not there.
    requests = [
        request(name, prompt_of(11, first), priority=priorities[name], max_tokens=10)
        for name, first in {"a": 20, "b": 30}.items()
    ]
    simulation = simulate(*requests, num_blocks=8, block_size=4)
    survivor = "ab".replace(victim, "")
    while not simulation.scheduler.stats().num_preemptions:
        plan = simulation.step()
    assert [name for name, *_ in chunks(plan)] == [survivor]
    while victim not in {name for name, *_ in chunks(plan)}:
        plan = simulation.step()
    [(_, start, _)] = [chunk for chunk in chunks(plan) if chunk[0] == victim]
    assert start == 12  # its full blocks that nobody needed meanwhile
    simulation.run()
    assert [simulation.result(r.id) for r in requests] == [generate_alone(r) for r in requests]


@pytest.mark.parametrize("depth", [0, 1])
def test_a_prompt_half_computed_can_be_preempted(depth):
    early, late = request("a", prompt_of(4), max_tokens=14), request("b", prompt_of(12, first=9))
    simulation = simulate(early, late, num_blocks=6, block_size=4, max_num_tokens=2, depth=depth)
    for _ in range(10):
        plan = simulation.step()
    assert chunks(plan) == [("a", 11, 1), ("b", 7, 1)]
    assert chunks(simulation.step()) == [("a", 12, 1)]
    simulation.run()
    assert simulation.result("b") == generate_alone(late)


@pytest.mark.parametrize(
    ("options", "num_prompt", "max_tokens", "sentence", "param"),
    [
        (
            {"max_model_len": 16},
            10,
            7,
            "This request needs 17 tokens (10 in the prompt and 7 of max_tokens), but the "
            "context of this model holds 16. Lower max_tokens to 6 or less, or shorten the prompt.",
            "max_tokens",
        ),
        (
            {"max_model_len": 16},
            16,
            1,
            "This request needs 17 tokens (16 in the prompt and 1 of max_tokens), but the "
            "context of this model holds 16. Shorten the prompt to fewer than 16 tokens.",
            "prompt",
        ),
        (
            {"num_blocks": 2, "block_size": 4},
            4,
            5,
            "This request needs 9 tokens (4 in the prompt and 5 of max_tokens), but the KV "
            "cache of this server holds 8 (2 blocks of 4). Lower max_tokens to 4 or less, or "
            "shorten the prompt.",
            "max_tokens",
        ),
    ],
    ids=["context", "prompt alone", "pool"],
)
def test_a_request_that_never_fits_is_refused(options, num_prompt, max_tokens, sentence, param):
    scheduler = Simulation(**options).scheduler
    with pytest.raises(ContextLengthError) as refused:
        scheduler.add(request("a", prompt_of(num_prompt), max_tokens=max_tokens))
    assert str(refused.value) == sentence
    assert refused.value.param == param
    assert not scheduler.has_work


def test_a_request_that_just_fits_fills_the_whole_pool():
    simulation = simulate(
        request("a", prompt_of(4), max_tokens=4), num_blocks=2, block_size=4, max_model_len=99
    )
    assert simulation.scheduler.limits.max_tokens == 8
    simulation.run()
    assert len(simulation.result("a")[0]) == 4


@pytest.mark.parametrize("depth", [0, 1])
def test_blocks_that_slid_out_of_every_window_are_free(depth):
    simulation = simulate(
        request("a", prompt_of(10), max_tokens=50), block_size=4, window=9, depth=depth
    )
    held = []
    while simulation.scheduler.has_work:
        simulation.step()
        stats = simulation.scheduler.stats()
        held.append(stats.num_blocks - stats.num_free_blocks)
    assert max(held) <= 4  # nine tokens lie in four blocks at most
    assert len(simulation.result("a")[0]) == 50


def test_a_prefix_whose_beginning_was_given_away_is_found_where_windows_do_not_reach_it():
    simulation = simulate(request("a", prompt_of(30)), block_size=4, window=9, num_blocks=9)
    simulation.run()
    simulation.scheduler.add(request("other", prompt_of(12, first=7)))
    simulation.run()
    simulation.scheduler.add(request("b", prompt_of(30)))
    assert chunks(simulation.step()) == [("b", 28, 2)]
    simulation.run()
    assert simulation.result("b") == generate_alone(request("b", prompt_of(30)))


def test_samples_share_what_the_windows_of_their_prompt_see():
    group = [request(name, prompt_of(30), group="g", seed=i) for i, name in enumerate("ab")]
    simulation = simulate(*group, block_size=4, window=9)
    simulation.run()
    for one in group:
        assert simulation.result(one.id) == generate_alone(one)


def test_a_cached_prefix_is_not_computed_again():
    simulation = simulate(request("a", prompt_of(10)), block_size=4)
    simulation.run()
    simulation.scheduler.add(request("b", prompt_of(10)))
    assert chunks(simulation.step()) == [("b", 8, 2)]
    assert simulation.deltas["b"][0].num_cached_tokens == 8
    stats = simulation.scheduler.stats()
    assert (stats.num_prefix_queries, stats.num_prefix_hits) == (20, 8)


def test_only_the_prompt_is_computed_for_max_tokens_zero():
    simulation = simulate(request("a", max_tokens=0))
    simulation.run()
    assert simulation.result("a") == ((), FinishReason.LENGTH, ())
    assert simulation.scheduler.stats().num_generated_tokens == 0


@pytest.mark.parametrize("depth", [0, 1])
def test_an_end_of_text_stops_it_and_is_its_last_token(depth):
    endings = [request(str(seed), ignore_eos=False, max_tokens=40, seed=seed) for seed in range(6)]
    simulation = simulate(*endings, depth=depth)
    simulation.run()
    results = [simulation.result(ending.id) for ending in endings]
    assert results == [generate_alone(ending) for ending in endings]
    assert any(tokens[-1] == EOS and reason is FinishReason.STOP for tokens, reason, _ in results)


class TestGroups:
    """n samples of one prompt."""

    samples = tuple(request(str(n), prompt_of(6), group="g", seed=n) for n in range(3))

    @pytest.mark.parametrize("prefix_caching", [True, False])
    def test_the_prompt_is_computed_once_and_its_blocks_are_shared(self, prefix_caching):
        simulation = simulate(*self.samples, block_size=4, prefix_caching=prefix_caching)
        assert chunks(simulation.step()) == [("0", 0, 6)]
        plan = simulation.step()
        assert chunks(plan) == [("0", 6, 1), ("1", 5, 1), ("2", 5, 1)]
        tables = [chunk.block_table for chunk in plan.chunks]
        assert simulation.pool.ref_counts[tables[0][0]] == 3
        # The second block holds one shared position: each writes to a copy of its own.
        assert [copy.source for copy in plan.copies] == [tables[0][1]] * 2
        assert [copy.target for copy in plan.copies] == [tables[1][1], tables[2][1]]
        simulation.run()
        for sample in self.samples:
            assert simulation.result(sample.id) == generate_alone(sample)

    def test_nothing_is_copied_where_the_prompt_ends_with_its_block(self):
        simulation = simulate(*self.samples, block_size=5)
        simulation.step()
        assert simulation.step().copies == ()

    def test_the_next_one_leads_when_the_leader_is_aborted(self):
        simulation = simulate(*self.samples, max_num_tokens=4)
        assert chunks(simulation.step()) == [("0", 0, 4)]
        simulation.scheduler.abort("0")
        assert chunks(simulation.step())[0][0] == "1"
        simulation.run()
        assert simulation.result("2") == generate_alone(self.samples[2])

    def test_followers_run_when_the_leader_ends_with_its_first_token(self):
        samples = [request(str(n), prompt_of(6), group="g", max_tokens=1) for n in range(3)]
        simulation = simulate(*samples)
        simulation.step()
        assert [name for name, *_ in chunks(simulation.step())] == ["1", "2"]

    def test_a_waiting_follower_can_be_aborted(self):
        simulation = simulate(*self.samples)
        simulation.scheduler.abort("1")
        simulation.run()
        assert simulation.deltas.keys() == {"0", "2"}


class TestLookahead:
    """schedule() once more before update()."""

    def test_a_decode_follows_a_token_that_is_still_being_sampled(self):
        simulation = simulate(request("a", max_tokens=3), depth=1)
        plans = [simulation.step() for _ in range(4)]
        assert [chunks(plan) for plan in plans[:3]] == [
            [("a", 0, 3)],
            [("a", 3, 1)],
            [("a", 4, 1)],
        ]
        assert plans[3] is None  # the end by length is known ahead
        assert [plan.chunks[0].output_index for plan in plans[:3]] == [0, 1, 2]

    def test_what_was_computed_past_the_end_of_text_is_dropped(self):
        ending = request("a", ignore_eos=False, max_tokens=40, seed=1)
        tokens, reason, _ = generate_alone(ending)
        assert reason is FinishReason.STOP and len(tokens) < 40
        simulation = simulate(ending, depth=1)
        simulation.run()
        assert simulation.result("a")[0] == tokens
        assert simulation.scheduler.stats().num_steps == len(tokens) + 1

    def test_a_preempted_sequence_waits_for_its_pending_token(self):
        ending, growing = request("a", max_tokens=5), request("b", prompt_of(8), max_tokens=10)
        simulation = simulate(ending, growing, num_blocks=5, block_size=4, depth=1)
        for _ in range(5):
            simulation.step()
        scheduler = simulation.scheduler
        assert scheduler.schedule() is None  # a is about to end, b has given its blocks back
        assert scheduler.stats().num_preemptions == 1
        scheduler.abort("a")
        assert scheduler.schedule() is None  # b would fit, but not all its tokens are known
        simulation.run()
        assert simulation.result("b") == generate_alone(growing)


class TestPromptLogprobs:
    """Every position's logits are needed."""

    def test_chunks_stay_within_the_rows_for_logits(self):
        scored = request("a", prompt_of(8), prompt_logprobs=0)
        simulation = simulate(scored, request("b", prompt_of(8, first=9)), max_logit_rows=3)
        plan = simulation.step()
        assert chunks(plan) == [("a", 0, 3), ("b", 0, 8)]
        assert [chunk.num_logit_rows for chunk in plan.chunks] == [3, 1]
        simulation.run()
        assert simulation.result("a") == generate_alone(scored)
        assert len(simulation.deltas["a"][0].prompt_logprobs) == 8

    def test_they_are_computed_beside_a_cached_prefix(self):
        simulation = simulate(request("a", prompt_of(10)))
        simulation.run()
        simulation.scheduler.add(request("b", prompt_of(10), prompt_logprobs=0))
        assert chunks(simulation.step()) == [("b", 0, 10)]


class TestAbort:
    """A client goes away."""

    @pytest.mark.parametrize("depth", [0, 1])
    @pytest.mark.parametrize("num_steps", [0, 1, 2])
    def test_its_blocks_are_free_at_once(self, num_steps, depth):
        simulation = simulate(request("a"), depth=depth)
        for _ in range(num_steps):
            simulation.step()
        simulation.scheduler.abort("a")
        simulation.scheduler.check_integrity()
        assert simulation.pool.num_free_blocks == simulation.pool.num_blocks
        assert not simulation.scheduler.has_work
        num_deltas = len(simulation.deltas.get("a", ()))
        simulation.run()
        assert len(simulation.deltas.get("a", ())) == num_deltas

    def test_an_unknown_id_is_ignored(self):
        simulation = simulate(request("a"))
        simulation.scheduler.abort("b")
        simulation.run()
        simulation.scheduler.abort("a")


def test_stats_count_what_happened():
    simulation = simulate(request("a"), request("b"), max_num_seqs=1)
    simulation.step()
    stats = simulation.scheduler.stats()
    assert (stats.num_running, stats.num_waiting, stats.num_steps) == (1, 1, 1)
    assert stats.num_blocks - stats.num_free_blocks == 1
    simulation.run()
    stats = simulation.scheduler.stats()
    assert (stats.num_running, stats.num_waiting) == (0, 0)
    assert (stats.num_prompt_tokens, stats.num_generated_tokens) == (6, 8)


def test_a_grammar_ends_its_sequence_whatever_the_parameters_say():
    plain = request("plain", max_tokens=20, min_tokens=9)
    bound = dataclasses.replace(plain, id="bound", grammar=Grammar(GrammarKind.REGEX, "a"))
    simulation = simulate(plain, bound)
    plan = simulation.scheduler.schedule()
    output = StepOutput(((SampledToken(EOS),), (SampledToken(EOS),)), ((), ()))
    kept, ended = simulation.scheduler.update(plan, output)
    assert (kept.finish_reason, kept.token_ids) == (None, (EOS,))
    assert (ended.finish_reason, ended.stop_token_id) == (FinishReason.STOP, EOS)
    assert simulation.scheduler.stats().num_running == 1


def test_a_sequence_without_a_possible_token_is_refused_and_its_followers_go_on():
    simulation = simulate(request("leader", group="g"), request("follower", group="g"))
    plan = simulation.scheduler.schedule()
    output = StepOutput(((SampledToken(3, error="Nothing can follow."),),), ((),))
    [refused] = simulation.scheduler.update(plan, output)
    assert (refused.finish_reason, refused.error) == (FinishReason.REFUSED, "Nothing can follow.")
    assert refused.token_ids == ()
    simulation.scheduler.check_integrity()
    assert chunks(simulation.scheduler.schedule()) == [("follower", 0, 3)]


def test_behind_an_encoder_there_is_no_beam_search():
    search = dataclasses.replace(request("a"), beam_search=BeamSearch(width=2))
    with pytest.raises(RequestError, match="not there yet for models with an encoder: leave it"):
        simulate(search, decoder_prompt=(1,))
