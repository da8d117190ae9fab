import pytest

from nimlite.engine.prefix_cache import PrefixCache
from nimlite.engine.request import Request, SamplingParams
from nimlite.engine.sequence import Sequence


def sequence(*token_ids, blocks=(), salt=""):
    request = Request(id="r", prompt_token_ids=token_ids, params=SamplingParams(), cache_salt=salt)
    made = Sequence(request, arrival=0, eos_token_ids=frozenset())
    made.block_table = list(blocks)
    return made


@pytest.fixture
def cache():
    """Blocks 7 and 8 hold tokens 1 … 4."""
    cache = PrefixCache(block_size=2)
    cache.register(sequence(1, 2, 3, 4, blocks=[7, 8]), 0, 2)
    return cache


@pytest.mark.parametrize(
    ("prompt", "blocks"),
    [
        ((1, 2, 3, 4, 5), [7, 8]),
        ((1, 2, 3, 4), [7]),  # never the whole prompt: its last token has to be computed
        ((1, 2, 9, 4, 5), [7]),
        ((9, 2, 3, 4, 5), []),  # equal tokens after another prefix are another block
        ((3, 4, 5), []),
        ((1, 2), []),
    ],
)
def test_the_longest_known_prefix_matches(cache, prompt, blocks):
    assert cache.match(sequence(*prompt)).blocks == blocks


def test_another_salt_matches_nothing(cache):
    assert cache.match(sequence(1, 2, 3, salt="tenant")).blocks == []


def test_a_forgotten_block_ends_the_match(cache):
    cache.forget(8)
    assert 8 not in cache
    assert cache.match(sequence(1, 2, 3, 4, 5)).blocks == [7]
    cache.forget(8)
    cache.check_integrity()


def test_of_two_equal_blocks_the_first_stays(cache):
    cache.register(sequence(1, 2, blocks=[9]), 0, 1)
    assert 9 not in cache
    assert cache.match(sequence(1, 2, 3)).blocks == [7]


def test_outputs_are_matched_like_prompts(cache):
    recomputed = sequence(1, 2, 3)
    recomputed.token_ids += [4, 5]
    assert cache.match(recomputed).blocks == [7, 8]


def test_disabled_it_knows_nothing():
    cache = PrefixCache(block_size=2, enabled=False)
    cache.register(sequence(1, 2, blocks=[7]), 0, 1)
    assert 7 not in cache
    assert cache.match(sequence(1, 2, 3)).blocks == []


@pytest.mark.parametrize(
    ("known", "window", "found"),
    [
        ({0, 1, 2, 3}, 0, (0, 4)),
        ({0, 1, 2, 3}, 3, (3, 1)),  # the token at position 8 sees 6 … 8
        ({0, 1, 2, 3}, 4, (2, 2)),
        ({2, 3}, 0, (0, 0)),
        ({2, 3}, 4, (2, 2)),  # of a prefix that slid out
        ({2, 3}, 6, (0, 0)),  # block 1 is seen, and not known
        ({0, 1, 3}, 4, (0, 2)),  # the last one does not do alone
        ({0, 1, 3}, 3, (3, 1)),
        ({1}, 2, (1, 1)),
    ],
)
def test_only_what_is_seen_must_be_known(known, window, found):
    cache = PrefixCache(block_size=2, window=window)
    full = sequence(1, 2, 3, 4, 5, 6, 7, 8, blocks=[10, 11, 12, 13])
    cache.register(full, 0, 4)
    for index in {0, 1, 2, 3} - known:
        cache.forget(10 + index)
    match = cache.match(sequence(1, 2, 3, 4, 5, 6, 7, 8, 9))
    num_slid, count = found
    assert match == (num_slid, [10 + num_slid + i for i in range(count)])


def test_blocks_that_slid_out_are_not_registered():
    cache = PrefixCache(block_size=2, window=2)
    slid = sequence(1, 2, 3, 4, blocks=[10, 11])
    slid.num_slid = 1
    cache.register(slid, 0, 2)
    assert 10 not in cache and 11 in cache
