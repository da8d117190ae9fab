"""Thoughts told apart from answers, in any chunks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nimlite.server.reasoning import BRACKETS, REASONING_FORMATS, THINK, ReasoningParser, detect
from nimlite.settings.values import ReasoningParser as Setting


def read(chunks: list[str], *, is_open: bool = False) -> tuple[str, str]:
    parser = ReasoningParser(THINK, is_open=is_open)
    parts = [*(parser.feed(chunk) for chunk in chunks), parser.finish()]
    return "".join(part[0] for part in parts), "".join(part[1] for part in parts)


@pytest.mark.parametrize(
    ("text", "is_open", "thoughts", "answer"),
    [
        ("<think>\nhm </b> ha\n</think>\n\nyes\n", False, "hm </b> ha", "yes\n"),
        ("hm\n</think>yes</think>", True, "hm", "yes</think>"),
        ("<think>hm</think>yes", True, "hm", "yes"),
        ("only this", False, "", "only this"),
        ("only this ", True, "only this", ""),
        (" <think> cut </thi", False, "cut </thi", ""),
        ("<think>\n\n</think>\n\nyes", False, "", "yes"),
        (" <thi", False, "", " <thi"),
        ("", True, "", ""),
    ],
)
def test_parts(text: str, is_open: bool, thoughts: str, answer: str) -> None:
    assert read([text], is_open=is_open) == (thoughts, answer)


@given(
    st.lists(st.sampled_from(["<think>", "</think>", "<", "/", "th", "a", " ", "\n", "🙂"])),
    st.booleans(),
    st.data(),
)
def test_chunks_change_nothing(words: list[str], is_open: bool, data: st.DataObject) -> None:
    text = "".join(words)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    chunks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(chunks, is_open=is_open) == read([text], is_open=is_open)


def test_what_comes_next_is_known() -> None:
    parser = ReasoningParser(THINK, is_open=False)
    assert not parser.is_thinking
    parser.feed("<think>")
    assert parser.is_thinking
    parser.feed("</think>")
    assert not parser.is_thinking


def test_a_chat_template_tells_the_marks() -> None:
    assert detect("{{ content.split('</think>')[-1] }}") is THINK
    assert detect("[THINK]…[/THINK]") is BRACKETS
    assert detect("plain") is None
    assert THINK.is_open("<|assistant|><think>\n")
    assert not THINK.is_open("<|assistant|><think>\n\n</think>\n\n")


def test_the_setting_takes_every_format() -> None:
    assert list(Setting) == list(REASONING_FORMATS)
