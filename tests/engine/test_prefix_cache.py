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
    assert cache.match(sequence(*prompt)) == blocks


def test_another_salt_matches_nothing(cache):
    assert cache.match(sequence(1, 2, 3, salt="tenant")) == []


def test_a_forgotten_block_ends_the_match(cache):
    cache.forget(8)
    assert 8 not in cache
    assert cache.match(sequence(1, 2, 3, 4, 5)) == [7]
    cache.forget(8)
    cache.check_integrity()


def test_of_two_equal_blocks_the_first_stays(cache):
    cache.register(sequence(1, 2, blocks=[9]), 0, 1)
    assert 9 not in cache
    assert cache.match(sequence(1, 2, 3)) == [7]


def test_outputs_are_matched_like_prompts(cache):
    recomputed = sequence(1, 2, 3)
    recomputed.token_ids += [4, 5]
    assert cache.match(recomputed) == [7, 8]


def test_disabled_it_knows_nothing():
    cache = PrefixCache(block_size=2, enabled=False)
    cache.register(sequence(1, 2, blocks=[7]), 0, 1)
    assert 7 not in cache
    assert cache.match(sequence(1, 2, 3)) == []
