"""The static buffers hold what the plan says, whatever they held before."""

import random

from nimlite.engine.batch import BatchBuffers, BatchLimits
from nimlite.engine.plan import ScheduledChunk, StepPlan
from nimlite.engine.request import Request, SamplingParams
from nimlite.engine.sequence import Sequence

LIMITS = BatchLimits(max_tokens=64, max_sequences=4, max_logit_rows=20, max_blocks=8, block_size=16)


def chunk(
    sequence: Sequence, start: int, num_tokens: int, num_logit_rows: int = 1
) -> ScheduledChunk:
    return ScheduledChunk(
        sequence, start, num_tokens, num_logit_rows, True, 0, sequence.block_table
    )


def sequence(token_ids: list[int], block_table: list[int]) -> Sequence:
    request = Request(id="r", prompt_token_ids=tuple(token_ids), params=SamplingParams())
    made = Sequence(request, arrival=0, eos_token_ids=frozenset())
    made.block_table = block_table
    return made


def plan(*chunks: ScheduledChunk) -> StepPlan:
    return StepPlan(1, chunks, (), sum(each.num_tokens for each in chunks))


def test_two_chunks_side_by_side() -> None:
    buffers = BatchBuffers(LIMITS)
    first, second = sequence([7] * 20, [5, 2]), sequence([1, 2, 3, 4, 5], [3])
    counts = buffers.fill(plan(chunk(first, 15, 3, 0), chunk(second, 1, 4, 4)), {})
    assert (counts.num_tokens, counts.num_sequences, counts.num_rows) == (7, 2, 4)
    batch = buffers.batch
    assert batch.token_ids_T[:7].tolist() == [7, 7, 7, 2, 3, 4, 5]
    assert batch.positions_T[:7].tolist() == [15, 16, 17, 1, 2, 3, 4]
    assert batch.slots_T[:7].tolist() == [5 * 16 + 15, 2 * 16, 2 * 16 + 1, 49, 50, 51, 52]
    assert batch.query_starts_S1[:3].tolist() == [0, 3, 7]
    assert batch.context_lens_S[:2].tolist() == [18, 5]
    assert batch.logit_rows_R[:4].tolist() == [3, 4, 5, 6]
    assert buffers.sources_T[:7].tolist() == [-1] * 7


def test_a_token_that_only_the_device_knows_has_a_source() -> None:
    buffers = BatchBuffers(LIMITS)
    known, pending = sequence([4, 5], [0]), sequence([6, 7], [1])
    buffers.fill(plan(chunk(known, 1, 1), chunk(pending, 2, 1)), {known: 0, pending: 3})
    assert buffers.batch.token_ids_T[:2].tolist() == [5, 0]
    assert buffers.sources_T[:2].tolist() == [-1, 3]


def test_tables_grow_move_and_are_replaced() -> None:
    """Against the tables themselves, over many random steps."""
    buffers, rng = BatchBuffers(LIMITS), random.Random(0)
    sequences = [sequence([1] * 128, []) for _ in range(6)]
    for _ in range(500):
        some = rng.sample(sequences, rng.randint(1, 4))
        for each in some:
            if rng.random() < 0.2:  # preempted, and admitted with other blocks
                each.block_table = [rng.randrange(100) for _ in each.block_table]
            if len(each.block_table) == 8:
                each.block_table = []
            each.block_table += [rng.randrange(100)]
        # As in lookahead, a plan may know less of a table than there is by now.
        ends = [16 * rng.randint(1, len(each.block_table)) for each in some]
        chunks = [chunk(each, end - 1, 1) for each, end in zip(some, ends, strict=True)]
        buffers.fill(plan(*chunks), {})
        for row, (each, end) in enumerate(zip(some, ends, strict=True)):
            found = buffers.batch.block_tables_SB[row, : end // 16].tolist()
            assert found == each.block_table[: end // 16]
