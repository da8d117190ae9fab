"""A mask depends on a sequence's outputs alone, whatever was computed between them."""

import dataclasses

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nimlite.build.tokenizer_files import byte_tokenizer
from nimlite.engine.grammar import GrammarCompiler
from nimlite.engine.plan import ScheduledChunk
from nimlite.engine.request import Grammar, GrammarKind, Request, SamplingParams
from nimlite.engine.sequence import Sequence
from nimlite.engine.token_masks import TokenMask, TokenMasks

EOS_ID = 256
PROMPT = (5, 6, 7)
SCHEMA = """{"type": "object", "properties": {"a": {"enum": ["x", "yy", 12]}, "b": {"type":
"array", "items": {"type": "integer"}, "maxItems": 2}}, "required": ["a", "b"]}"""
GRAMMARS = (
    Grammar(GrammarKind.JSON_SCHEMA, SCHEMA),
    Grammar(GrammarKind.REGEX, "(ab|cd){2,5}"),
    None,
)
COMPILER = GrammarCompiler(byte_tokenizer(), 272, [EOS_ID])


def sequence(grammar: Grammar | None, name: str = "s", **params: object) -> Sequence:
    request = Request(
        id=name,
        prompt_token_ids=PROMPT,
        params=SamplingParams(**({"max_tokens": 99} | params)),
        grammar=grammar,
    )
    return Sequence(request, arrival=0, eos_token_ids=frozenset([EOS_ID]))


def chunk(of: Sequence, num_pending: int = 0) -> ScheduledChunk:
    num_tokens = len(of.token_ids) + num_pending
    return ScheduledChunk(of, num_tokens - 1, 1, 1, True, num_tokens - len(PROMPT), [])


def never(of: Sequence) -> int:
    raise AssertionError("nothing is pending")


def allowed(mask: TokenMask | None, place: int = 0) -> set[int]:
    assert mask is not None
    bits = np.unpackbits(mask.bits_GW[place].view(np.uint8), bitorder="little")
    return set(np.flatnonzero(bits).tolist())


def after(text: str, grammar: Grammar, **params: object) -> set[int]:
    """What may follow `text`."""
    one = sequence(grammar, **params)
    one.token_ids += byte_tokenizer().encode(text).ids
    return allowed(TokenMasks(COMPILER).fill([chunk(one)], never))


@given(st.data())
def test_matchers_follow_their_sequences(data: st.DataObject) -> None:
    """In each step some sequences take part, the others are preempted or wait; the last token of
    one may still be on the device."""
    sequences = [sequence(g, f"{i}", ignore_eos=i > 2) for i, g in enumerate(GRAMMARS * 2)]
    masks, pending = TokenMasks(COMPILER), {}
    for _ in range(data.draw(st.integers(1, 12))):
        chosen = data.draw(st.permutations(sequences))[: data.draw(st.integers(1, 6))]
        # What was on the device has arrived, but for those that run on.
        for one in list(pending):
            if one not in chosen:
                one.token_ids.append(pending.pop(one))
        chunks = [chunk(one, num_pending=one in pending) for one in chosen]
        mask = masks.fill(chunks, pending.__getitem__)
        for one, token in pending.items():
            one.token_ids.append(token)
        pending = {}
        constrained = [one for one in chosen if one.request.grammar]
        if not constrained:
            assert mask is None
            continue
        assert mask.rows == tuple(chosen.index(one) for one in constrained)
        assert not mask.errors
        for place, one in enumerate(constrained):
            anew = TokenMasks(COMPILER).fill([chunk(one)], never)
            assert allowed(mask, place) == allowed(anew)
            token = data.draw(st.sampled_from(sorted(allowed(mask, place))))
            if token == EOS_ID:
                sequences.remove(one)
            elif data.draw(st.booleans()):
                pending[one] = token
            else:
                one.token_ids.append(token)
        if not sequences:
            break


def test_the_end_comes_where_the_grammar_has_it() -> None:
    grammar = Grammar(GrammarKind.REGEX, "a{2,3}")
    a = ord("a")
    assert after("a", grammar) == {a}
    assert after("aa", grammar) == {a, EOS_ID}
    assert after("aaa", grammar) == {EOS_ID}
    assert after("aa", grammar, min_tokens=3) == after("aa", grammar, ignore_eos=True) == {a}
    # nothing else can follow
    assert after("aaa", grammar, min_tokens=9, ignore_eos=True) == {EOS_ID}
    assert after("a", grammar, min_tokens=9, stop_token_ids=(a,)) == {a}
    assert after("", Grammar(GrammarKind.REGEX, "[ab]"), min_tokens=1, stop_token_ids=(a,)) == {
        ord("b")
    }


def test_one_that_goes_on_with_another_ones_answer() -> None:
    one = sequence(Grammar(GrammarKind.REGEX, "abcd"))
    request = dataclasses.replace(one.request, prompt_token_ids=(*PROMPT, *b"ab"), num_written=2)
    goes_on = Sequence(request, arrival=0, eos_token_ids=frozenset([EOS_ID]))
    chunk_of = ScheduledChunk(goes_on, 4, 1, 1, True, 0, [])
    masks = TokenMasks(COMPILER)
    assert allowed(masks.fill([chunk_of], never)) == {ord("c")}
    mask = masks.fill([chunk_of._replace(output_index=1)], lambda one: ord("c"))
    assert allowed(mask) == {ord("d")}


def test_what_a_sequence_samples_behind_its_end_harms_nobody() -> None:
    """A step that was launched before the end was known."""
    ended, other = sequence(GRAMMARS[1], "ended"), sequence(GRAMMARS[1], "other")
    ended.token_ids += b"abab"
    masks = TokenMasks(COMPILER)
    masks.fill([chunk(ended), chunk(other)], never)
    mask = masks.fill([chunk(ended, num_pending=1), chunk(other)], lambda one: EOS_ID)
    assert not mask.errors
    assert allowed(mask, 0)
    assert allowed(mask, 1) == {ord("a"), ord("c")}


def test_where_nothing_can_follow_the_row_has_an_error_and_can_be_sampled() -> None:
    dead_end = Grammar(GrammarKind.LARK, 'start: "x" rest\nrest: rest "y"')
    one, other = sequence(dead_end, "dead"), sequence(None, "other")
    masks = TokenMasks(COMPILER)
    one.token_ids += b"x"
    mask = masks.fill([chunk(other), chunk(one)], never)
    assert mask.rows == (1,)
    assert mask.errors == {
        1: "The grammar can't be followed any further: no text follows it to its end."
    }
    assert len(allowed(mask)) == 288
