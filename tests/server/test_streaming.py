"""Server-sent events as clients read them."""

import json

from hypothesis import given
from hypothesis import strategies as st

from nimlite.server.choice import Piece
from nimlite.server.chunks import ChunkEncoder
from nimlite.server.completions import CompletionFormat
from nimlite.server.protocol import CompletionRequest
from nimlite.server.streaming import event
from nimlite.server.tokenizer import Tokenizer

LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


@given(st.text() | st.text(alphabet=LINE_ENDS + "\xc2\u20a8a"))
def test_an_event_is_one_line_to_whoever_splits_at_any_unicode_line_end(text: str) -> None:
    lines = event({"text": text}).decode().splitlines()
    assert json.loads(lines[0].removeprefix("data: ")) == {"text": text}
    assert lines[1:] == [""]


def test_the_chunks_of_an_answer_are_such_lines(tokenizer: Tokenizer) -> None:
    body = CompletionRequest(model="\u2028", prompt="", stream=True)
    of_texts = CompletionFormat(tokenizer.token_bytes, shows_logprobs=False)
    encoder = ChunkEncoder(body, "\x85", of_texts)
    pieces = [Piece(0, "a\u2029b"), Piece(1, "c")]
    lines = encoder.pieces(pieces, lambda: None).decode().splitlines()
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    assert [c["choices"][0]["text"] for c in chunks] == ["a\u2029b", "c"]
    assert all((c["id"], c["model"]) == ("\x85", "\u2028") for c in chunks)
