import pytest

from nimlite.engine.block_pool import BlockPool
from nimlite.engine.prefix_cache import PrefixCache
from nimlite.engine.request import Request, SamplingParams
from nimlite.engine.sequence import Sequence


@pytest.fixture
def cache():
    return PrefixCache(block_size=2)


@pytest.fixture
def pool(cache):
    return BlockPool(4, 2, cache)


def sequence_with(blocks, *, token):
    """A sequence whose tokens fill the blocks."""
    request = Request(
        id="r", prompt_token_ids=(token,) * (2 * len(blocks)), params=SamplingParams()
    )
    sequence = Sequence(request, arrival=0, eos_token_ids=frozenset())
    sequence.block_table = blocks
    return sequence


def test_a_shared_block_is_free_only_when_its_last_holder_lets_go(pool):
    table = pool.allocate(2)
    pool.acquire(table)
    pool.release(table)
    assert pool.num_free_blocks == 2
    pool.check_integrity([table])
    pool.release(table)
    assert pool.num_free_blocks == 4
    pool.check_integrity([])


def test_cached_blocks_are_given_out_last_and_tails_before_heads(pool, cache):
    old, new = pool.allocate(2), pool.allocate(1)
    cache.register(sequence_with(old, token=1), 0, 2)
    cache.register(sequence_with(new, token=2), 0, 1)
    pool.release(old)
    pool.release(new)
    [untouched] = {0, 1, 2, 3} - {*old, *new}
    assert pool.allocate(1) == [untouched]
    assert pool.allocate(1) == [old[1]]
    assert old[1] not in cache and old[0] in cache


def test_a_block_taken_back_from_the_cache_becomes_the_most_recently_used(pool, cache):
    table = pool.allocate(4)
    cache.register(sequence_with(table, token=1), 0, 4)
    pool.release(table)
    assert pool.num_free_among(table[:1]) == 1
    pool.acquire([table[3]])
    assert pool.num_free_among([table[3]]) == 0
    pool.release([table[3]])
    assert pool.allocate(4) == [table[2], table[1], table[0], table[3]]


def test_a_second_release_is_refused(pool):
    table = pool.allocate(1)
    pool.release(table)
    with pytest.raises(AssertionError, match="released twice"):
        pool.release(table)


def test_more_blocks_than_are_free_are_refused(pool):
    with pytest.raises(AssertionError, match="5 blocks wanted, 4 free"):
        pool.allocate(5)


def test_a_leak_fails_the_integrity_check(pool):
    pool.allocate(1)
    with pytest.raises(AssertionError, match="wrong counts"):
        pool.check_integrity([])
