"""Prompt lookup finds what a search over the tokens themselves finds."""

import hypothesis.strategies as st
from hypothesis import given, settings

from nimlite.engine.ngram import LONGEST, SHORTEST, NgramLookup


def lookup(token_ids):
    made = NgramLookup()
    made.extend(token_ids)
    return made


def plain_guess(tokens, count):
    for length in range(min(LONGEST, len(tokens) - 1), SHORTEST - 1, -1):
        for start in range(len(tokens) - length - 1, -1, -1):
            if tokens[start : start + length] == tokens[-length:]:
                rest = tokens[start + length :]
                while len(rest) < count:
                    rest = rest + tokens[start + length :]
                return tuple(rest[:count])
    return ()


def test_the_latest_of_the_longest_matches_wins():
    text = [1, 2, 3, 7, 2, 3, 8, 9, 1, 2, 3]
    assert lookup(text).guess(3) == (7, 2, 3)
    assert lookup([*text[:-3], 5, 2, 3]).guess(2) == (8, 9)


def test_nothing_is_guessed_where_the_end_is_new():
    assert lookup([1, 2, 3, 4]).guess(5) == ()
    assert lookup([]).guess(5) == ()
    assert lookup([1]).guess(5) == ()


def test_a_period_goes_on():
    assert lookup([5, 6, 7, 5, 6, 7]).guess(8) == (5, 6, 7, 5, 6, 7, 5, 6)
    assert lookup([4, 4, 4]).guess(3) == (4, 4, 4)


def test_what_lies_across_the_borders_of_tokens_is_no_match():
    """The bytes of (1, 256 + 1) hold those of 1 at an odd place."""
    assert lookup([256, 256, 7, 1 << 16, 1 << 16]).guess(1) == ()


@settings(deadline=None, max_examples=300)
@given(
    pieces=st.lists(
        st.lists(st.sampled_from([0, 1, 256, 257, 65536, 1 << 24]), max_size=9), max_size=5
    ),
    count=st.integers(1, 9),
)
def test_it_equals_a_search_over_tokens_however_the_text_came(pieces, count):
    made, tokens = NgramLookup(), []
    for piece in pieces:
        made.extend(piece)
        tokens += piece
        assert made.num_tokens == len(tokens)
        assert made.guess(count) == plain_guess(tokens, count)
