"""Scheduler, pool and prefix cache under whatever hypothesis thinks of."""

import hypothesis.strategies as st
import pytest
from fake_runner import VOCAB_SIZE, Oracle, Simulation, embed_alone, generate_alone
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from nimlite.engine.request import Request, SamplingParams
from nimlite.errors import ContextLengthError
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
        work = sum(len(r.prompt_token_ids) + r.params.max_tokens for r in self.requests.values())
        self.simulation.run(max_steps=2 + 2 * work * len(self.requests))
        assert self.finished >= self.requests.keys()
        for request_id, request in self.requests.items():
            if request.pooling is None:
                assert self.simulation.result(request_id) == generate_alone(request)
            else:
                expected = pytest.approx(embed_alone(request), rel=1e-6)
                assert self.simulation.embedding(request_id) == expected

    @property
    def finished(self):
        return {key for key, deltas in self.simulation.deltas.items() if deltas[-1].finish_reason}

    def _add(self, prompt, params, **options):
        request = Request(
            id=f"{self.num_added:03}", prompt_token_ids=prompt, params=params, **options
        )
        self.num_added += 1
        fits = len(prompt) + params.max_tokens <= self.simulation.scheduler.limits.max_tokens
        try:
            self.simulation.scheduler.add(request)
        except ContextLengthError:
            assert not fits
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
