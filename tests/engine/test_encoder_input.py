"""Prompts that an encoder reads: their blocks under whatever hypothesis thinks of."""

import hypothesis.strategies as st
import pytest
from fake_runner import VOCAB_SIZE, FakeRunner, Simulation, histories
from hypothesis import given, settings

from nimlite.engine.plan import SampledToken, StepOutput, StepPlan
from nimlite.engine.request import Request, SamplingParams
from nimlite.errors import ContextLengthError

START = (3, 4)


def written(source: tuple[int, ...], tokens: list[int]) -> list[int]:
    """What a position of the decoder's text leaves, after what the encoder has read."""
    return [hash((source, history)) for history in histories(tokens)]


def alone(request: Request) -> list[int]:
    tokens = list(START)
    for _ in range(request.params.max_tokens):
        tokens.append(written(request.prompt_token_ids, tokens)[-1] % VOCAB_SIZE)
    return tokens[len(START) :]


class ReadingRunner(FakeRunner):
    """Each block must hold what whoever reads it expects."""

    def execute(self, plan: StepPlan) -> StepOutput:
        self._check_limits(plan)
        assert sum(len(r.sequence.source_token_ids) for r in plan.reads) <= (
            self.config.max_num_tokens
        )
        self._copy_blocks(plan)
        for sequence, table in plan.reads:
            self.kv |= {
                self._in(table, i): hash((sequence.source_token_ids, i))
                for i in range(len(sequence.source_token_ids))
            }
        tokens = [self._tokens(chunk) for chunk in plan.chunks]
        known = [
            written(chunk.sequence.source_token_ids, of_one)
            for chunk, of_one in zip(plan.chunks, tokens, strict=True)
        ]
        self._write(plan, known)
        sampled = [
            self._sample(chunk, of_one) for chunk, of_one in zip(plan.chunks, known, strict=True)
        ]
        return StepOutput(tuple(sampled), ((),) * len(sampled))

    def _in(self, table: list[int], position: int) -> int:
        return table[position // self.block_size] * self.block_size + position % self.block_size

    def _sample(self, chunk, known):
        sequence, end = chunk.sequence, chunk.start + chunk.num_tokens
        source = sequence.source_token_ids
        for i in range(len(source)):
            assert self.kv[self._in(sequence.source_table, i)] == hash((source, i))
        for position in range(end):
            assert self.kv[self._slot(chunk, position)] == known[position]
        if not chunk.samples:
            return ()
        token = known[-1] % VOCAB_SIZE
        self._sampled[sequence, end] = token
        return (SampledToken(token),)


sources = st.builds(
    lambda stem, length: (stem, 5, 7, 9, 2, 6)[:length],
    st.integers(1, 3),
    st.integers(1, 6),
)


@given(
    st.lists(st.tuples(sources, st.integers(1, 12), st.integers(0, 3)), min_size=1, max_size=9),
    st.integers(5, 14),
    st.integers(2, 4),
    st.integers(6, 9),
    st.integers(0, 1),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_every_sequence_reads_its_own_prompt_and_text(
    asked, num_blocks, block_size, max_num_tokens, depth, prefix_caching
) -> None:
    simulation = Simulation(
        num_blocks=num_blocks,
        block_size=block_size,
        max_num_tokens=max_num_tokens,
        max_model_len=20,
        depth=depth,
        prefix_caching=prefix_caching,
        decoder_prompt=START,
    )
    simulation.runner = ReadingRunner(simulation.scheduler.config, block_size)
    requests = {}
    for index, (source, max_tokens, num_steps) in enumerate(asked):
        params = SamplingParams(max_tokens=max_tokens, ignore_eos=True)
        request = Request(id=f"{index}", prompt_token_ids=source, params=params)
        try:
            simulation.scheduler.add(request)
        except ContextLengthError:
            needed = -(-len(source) // block_size) + -(-(2 + max_tokens) // block_size)
            assert needed > num_blocks
            continue
        requests[request.id] = request
        for _ in range(num_steps):
            simulation.step()
    simulation.run()
    for request_id, request in requests.items():
        deltas = simulation.deltas[request_id]
        assert [token for delta in deltas for token in delta.token_ids] == alone(request)


def test_an_equal_prompt_is_read_once_and_only_under_the_same_salt() -> None:
    simulation = Simulation(max_num_tokens=8, decoder_prompt=START)
    simulation.runner = ReadingRunner(simulation.scheduler.config, 4)
    reads = []
    for index, salt in enumerate(["", "", "other"]):
        params = SamplingParams(max_tokens=1, ignore_eos=True)
        request = Request(
            id=f"{index}", prompt_token_ids=(1, 5, 7, 9, 2), params=params, cache_salt=salt
        )
        simulation.scheduler.add(request)
        plan = simulation.step()
        assert plan is not None
        reads.append(len(plan.reads))
        simulation.run()
        assert simulation.deltas[request.id][0].num_cached_tokens == (5 if index == 1 else 0)
    assert reads == [1, 0, 1]


def test_what_no_step_or_no_pool_holds_is_refused() -> None:
    simulation = Simulation(max_num_tokens=8, num_blocks=5, decoder_prompt=START)
    for source, max_tokens, sentence in (
        ((1,) * 9, 1, r"encoder reads up to 8 in one step \(NIM_MAX_NUM_TOKENS; the model allows"),
        ((1,) * 5, 11, r"KV cache of this server holds 10 beside its prompt \(5 blocks of 4\)"),
    ):
        request = Request(
            id="a", prompt_token_ids=source, params=SamplingParams(max_tokens=max_tokens)
        )
        with pytest.raises(ContextLengthError, match=sentence):
            simulation.scheduler.add(request)
