"""Scheduler, pool and prefix cache under whatever hypothesis thinks of."""

from dataclasses import replace

import hypothesis.strategies as st
import pytest
from fake_runner import VOCAB_SIZE, Oracle, Simulation, beams_alone, embed_alone, generate_alone
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from nimlite.engine.request import BeamSearch, Request, SamplingParams
from nimlite.errors import ContextLengthError, RequestError
from nimlite.models.embedding import Pooling

tokens = st.integers(0, VOCAB_SIZE - 1)
# Two stems, so that prefixes are shared; short tails, so that they part anywhere in a block.
prompts = st.builds(
    lambda stem, length, tail: ((stem, 5, 7) * 6)[:length] + tuple(tail),
    st.sampled_from([1, 2]),
    st.integers(1, 16),
    st.lists(tokens, max_size=4),
)
params = st.builds(
    SamplingParams,
    seed=st.integers(0, 3),
    max_tokens=st.integers(0, 14),
    min_tokens=st.integers(0, 4),
    ignore_eos=st.booleans(),
    stop_token_ids=st.lists(tokens, max_size=1).map(tuple),
    prompt_logprobs=st.sampled_from([None, None, None, 0]),
)
priorities = st.integers(-1, 1)
salts = st.sampled_from(["", "", "other tenant"])
clients = st.sampled_from(["", "a", "b"])


class Engine(RuleBasedStateMachine):
    """Random arrivals, groups and cancels over a pool that is nearly always too small."""

    @initialize(
        num_blocks=st.integers(2, 16),
        block_size=st.integers(1, 4),
        max_num_seqs=st.integers(1, 6),
        max_num_tokens=st.sampled_from([1, 2, 3, 5, 8, 24]),
        max_logit_rows=st.integers(1, 8),
        depth=st.integers(0, 1),
        runs_late=st.booleans(),
        prefix_caching=st.booleans(),
        window=st.sampled_from([0, 0, 1, 2, 3, 5, 9]),
        rights=st.lists(st.integers(0, 4), max_size=3),
    )
    def start(self, rights, **configuration):
        speculator = Oracle(rights) if rights else None
        self.simulation = Simulation(max_model_len=32, speculator=speculator, **configuration)
        self.requests = {}
        self.places = {}
        self.num_added = 0

    @rule(prompt=prompts, params=params, priority=priorities, salt=salts, client=clients)
    def add(self, prompt, params, priority, salt, client):
        self._add(prompt, params, priority=priority, cache_salt=salt, client=client)

    @rule(prompt=prompts, pooling=st.sampled_from(Pooling), priority=priorities, salt=salts)
    def add_text_to_embed(self, prompt, pooling, priority, salt):
        nothing = SamplingParams(max_tokens=0)
        self._add(prompt, nothing, pooling=pooling, priority=priority, cache_salt=salt)

    @rule(prompt=prompts, samples=st.lists(params, min_size=2, max_size=4), priority=priorities)
    def add_group(self, prompt, samples, priority):
        group = f"group-{self.num_added}"
        for params in samples:
            self._add(prompt, params, priority=priority, group=group)

    @rule(
        prompt=prompts,
        search=st.builds(
            BeamSearch,
            width=st.integers(1, 4),
            length_penalty=st.sampled_from([0.0, 1.0, -1.0]),
            early_stopping=st.sampled_from([False, True, "never"]),
        ),
        params=params.map(lambda p: replace(p, max_tokens=max(1, p.max_tokens))),
        priority=priorities,
        count=st.integers(1, 4),
    )
    def add_search(self, prompt, search, params, priority, count):
        group = f"search-{self.num_added}"
        for _ in range(min(count, search.width)):
            self._add(prompt, params, priority=priority, group=group, beam_search=search)

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def abort(self, data):
        request_id = data.draw(st.sampled_from(sorted(self.requests)))
        self.simulation.scheduler.abort(request_id)
        self.simulation.scheduler.check_integrity()
        if request_id not in self.finished:
            del self.requests[request_id]

    @rule(count=st.integers(1, 8))
    def step(self, count):
        for _ in range(count):
            self.simulation.step()

    def teardown(self):
        if not hasattr(self, "simulation"):
            return
        work = sum(
            (len(r.prompt_token_ids) + r.params.max_tokens)
            * (r.beam_search.width if r.beam_search else 1)
            for r in self.requests.values()
        )
        # a search that loses its blocks begins anew
        tries = 10 if any(r.beam_search for r in self.requests.values()) else 1
        self.simulation.run(max_steps=2 + 2 * tries * work * len(self.requests))
        assert self.finished >= self.requests.keys()
        for request_id, request in self.requests.items():
            if request.pooling is not None:
                expected = pytest.approx(embed_alone(request), rel=1e-6)
                assert self.simulation.embedding(request_id) == expected
                continue
            found = self.simulation.result(request_id)
            if request.beam_search is None:
                assert found == generate_alone(request)
            else:
                place = self.places[request_id]
                assert found[:2] == beams_alone(request)[place]

    @property
    def finished(self):
        return {key for key, deltas in self.simulation.deltas.items() if deltas[-1].finish_reason}

    def _add(self, prompt, params, **options):
        request = Request(
            id=f"{self.num_added:03}", prompt_token_ids=prompt, params=params, **options
        )
        self.num_added += 1
        same = [r for r in self.requests.values() if r.group and r.group == request.group]
        self.places[request.id] = len(same)
        fits = len(prompt) + params.max_tokens <= self.simulation.scheduler.limits.max_tokens
        try:
            self.simulation.scheduler.add(request)
        except (ContextLengthError, RequestError):
            assert not fits or request.beam_search is not None
        else:
            assert fits
            self.requests[request.id] = request


TestEngine = Engine.TestCase
TestEngine.settings = settings(
    max_examples=200,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
