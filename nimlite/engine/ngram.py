"""Guesses of what comes next from what came before: prompt lookup, which needs no weights.

Where the text's last tokens stand earlier in it, what followed them there is likely to follow
again: in answers that quote, edit or summarize their prompt, and in lists and code (Saxena, "Prompt
Lookup Decoding", 2023).
"""

from array import array
from collections.abc import Sequence

LONGEST = 4
"""Tokens that are looked up at most: the more agree, the better the guess."""
SHORTEST = 2
_BYTES = array("i").itemsize


class NgramLookup:
    """One growing text, searched by its own end."""

    def __init__(self) -> None:
        self._text = bytearray()
        """The tokens as machine integers: a search over bytes takes microseconds."""

    @property
    def num_tokens(self) -> int:
        """Of the text so far."""
        return len(self._text) // _BYTES

    def extend(self, token_ids: Sequence[int]) -> None:
        """They come next in the text."""
        self._text += array("i", token_ids).tobytes()

    def guess(self, count: int) -> tuple[int, ...]:
        """Up to `count` tokens that followed the latest earlier occurrence of the longest end that
        has one; none where even the last `SHORTEST` tokens are new."""
        for length in range(min(LONGEST, self.num_tokens - 1), SHORTEST - 1, -1):
            start = self._find(length)
            if start >= 0:
                return self._tokens(start + length * _BYTES, count)
        return ()

    def _find(self, length: int) -> int:
        """Where in the bytes the last `length` tokens stand before; -1: nowhere."""
        text = self._text
        end = text[-length * _BYTES :]
        found = text.rfind(end, 0, len(text) - 1)
        while found % _BYTES and found >= 0:  # across the borders of tokens
            found = text.rfind(end, 0, found + len(end) - 1)
        return found

    def _tokens(self, start: int, count: int) -> tuple[int, ...]:
        """From a byte on. Behind the text's end they begin anew: what is there is a period."""
        found = array("i", bytes(self._text[start : start + count * _BYTES]))
        period = len(self._text) - start
        while len(found) < count and found:
            found.append(found[len(found) - period // _BYTES])
        return tuple(found)
