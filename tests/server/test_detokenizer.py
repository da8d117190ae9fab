"""Pieces make the decoded whole, up to the first stop string, whatever the tokens are."""

from collections.abc import Sequence

import pytest
import tokenizers
from fakes.tiny_tokenizer import byte_level_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models

from nimlite.server.detokenizer import Detokenizer, TextOptions
from nimlite.server.token_bytes import TokenBytes

TOKENIZER = byte_level_tokenizer()
TOKEN_BYTES = TokenBytes(TOKENIZER)
EURO = [TOKENIZER.token_to_id(character) for character in ("â", "Ĥ", "¬")]

token_ids = st.lists(st.integers(0, TOKENIZER.get_vocab_size() - 1), max_size=60)
texts = st.text(alphabet="abeél 日😀", min_size=1, max_size=4)


def pieces_of(ids: Sequence[int], options: TextOptions) -> list[str]:
    detokenizer = Detokenizer(TOKEN_BYTES, options)
    pieces = []
    for token_id in ids:
        pieces.append(detokenizer.feed(token_id))
        if detokenizer.stopped:
            break
    return [*pieces, detokenizer.finish()]


def decoded(ids: Sequence[int], *, skip: bool = True) -> str:
    """What the tokenizer makes of it, but for a character that was cut off at the end."""
    text = TOKENIZER.decode(ids, skip_special_tokens=skip)
    skipped = TOKEN_BYTES.special_ids if skip else ()
    raw = b"".join(TOKEN_BYTES[token_id] for token_id in ids if token_id not in skipped)
    for length in (1, 2, 3):
        try:
            raw[-length:].decode()
        except UnicodeDecodeError as error:
            if error.reason == "unexpected end of data":
                return text.removesuffix("�")
    return text


def cut_at_first_stop(text: str, stops: Sequence[str]) -> str:
    """By definition: the first end of any stop string; of those that end there, the longest."""
    for end in range(1, len(text) + 1):
        lengths = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if lengths:
            return text[: end - max(lengths)]
    return text


@given(ids=token_ids, skip=st.booleans())
def test_pieces_make_the_whole(ids: list[int], skip: bool) -> None:
    pieces = pieces_of(ids, TextOptions(skip_special_tokens=skip))
    assert "".join(pieces) == decoded(ids, skip=skip)


@given(
    ids=st.one_of(
        token_ids, st.text("abeél 日😀", max_size=40).map(lambda t: TOKENIZER.encode(t).ids)
    ),
    stops=st.lists(texts, min_size=1, max_size=4),
)
def test_pieces_end_before_the_first_stop_string(ids: list[int], stops: list[str]) -> None:
    pieces = pieces_of(ids, TextOptions(stop=tuple(stops)))
    whole = decoded(ids)
    assert "".join(pieces) == cut_at_first_stop(whole, stops)
    assert "".join(pieces).count("�") <= whole.count("�")


@given(text=st.text(max_size=40))
def test_no_piece_of_valid_text_has_half_a_character(text: str) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    pieces = pieces_of(ids, TextOptions(skip_special_tokens=False))
    assert "".join(pieces) == text
    assert sum(piece.count("�") for piece in pieces) == text.count("�")


def test_a_character_comes_with_its_last_byte() -> None:
    assert pieces_of(EURO, TextOptions()) == ["", "", "€", ""]
    assert pieces_of(EURO[:2], TextOptions()) == ["", "", ""]


@pytest.mark.parametrize(
    ("text", "stops", "pieces"),
    [
        ("xaab", ["aab"], ["x", "", "", "", ""]),
        ("aaab", ["aab"], ["", "", "a", "", ""]),
        ("abx", ["abc"], ["", "", "abx", ""]),
        ("ab", ["abc"], ["", "", "ab"]),
        ("abcd", ["bcd", "c"], ["a", "", "b"]),
        ("abcd", ["c", "bc"], ["a", "", ""]),
    ],
)
def test_only_what_may_become_a_stop_string_is_held(
    text: str, stops: list[str], pieces: list[str]
) -> None:
    ids = [TOKENIZER.token_to_id(character) for character in text]
    assert pieces_of(ids, TextOptions(stop=tuple(stops)))[: len(pieces)] == pieces


def test_sentencepiece_bytes_and_spaces() -> None:
    vocab = {"<unk>": 0, "a": 1, "▁hi": 2, "<0xE2>": 3, "<0x82>": 4, "<0xAC>": 5}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab, [], unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    token_bytes = TokenBytes(tokenizer)
    detokenizer = Detokenizer(token_bytes, TextOptions())
    # The space stays: the text goes on from a prompt.
    assert [detokenizer.feed(i) for i in (2, 3, 4, 5, 99)] == [" hi", "", "", "€", ""]
    assert token_bytes.text(3) == "bytes:\\xe2"
