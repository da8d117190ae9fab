"""Tokens to text, as they come: never half a character, never the beginning of a stop string."""

import codecs
from dataclasses import dataclass

from nimlite.server.stop_matcher import StopMatcher
from nimlite.server.token_bytes import TokenBytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TextOptions:
    """How the tokens of one request become text."""

    stop: tuple[str, ...] = ()
    include_stop: bool = False
    """Keep the stop string (or stop token) at the end of the text."""
    skip_special_tokens: bool = True
    shown_ids: frozenset[int] = frozenset()
    """Special tokens that are never left out."""
    min_tokens: int = 0
    """No stop string is looked for in the text of the first ones."""


class Detokenizer:
    """The text of one sequence. Half a character and a possible stop string are held back."""

    def __init__(self, token_bytes: TokenBytes, options: TextOptions) -> None:
        self._token_bytes = token_bytes
        self._options = options
        skipped = token_bytes.special_ids if options.skip_special_tokens else frozenset()
        self._skipped = skipped - options.shown_ids
        self._incomplete = b""
        """The beginning of a character."""
        self._matcher = StopMatcher(options.stop) if options.stop else None
        self._held = ""
        self._num_tokens = 0
        self.num_decoded = 0
        """Characters so far, held or released."""
        self.num_released = 0
        self.stopped = False
        """A stop string was found: the text is complete."""
        self.stop_string: str | None = None
        """The one that was found."""

    def feed(self, token_id: int) -> str:
        """The text that became certain with this token. Must not be called once stopped."""
        assert not self.stopped, "tokens after a stop string"
        self._num_tokens += 1
        raw = b"" if token_id in self._skipped else self._token_bytes[token_id]
        if self._incomplete:
            raw = self._incomplete + raw
        text, num_read = codecs.utf_8_decode(raw, "replace")
        self._incomplete = raw[num_read:]
        self.num_decoded += len(text)
        if self._matcher is not None:
            return self._append(text, self._matcher)
        self.num_released += len(text)
        return text

    def finish(self) -> str:
        """What is still held: no more tokens will come. Half a character is dropped."""
        rest, self._held = self._held, ""
        self.num_released += len(rest)
        return rest

    def _append(self, text: str, matcher: StopMatcher) -> str:
        held = self._held + text
        searched = self._num_tokens > self._options.min_tokens
        match = matcher.feed(text) if searched else None
        if match is None:
            cut = len(held) - matcher.pending
            self._held = held[cut:]
        else:
            self.stopped = True
            self.stop_string = match.stop
            cut = len(self._held) + match.end
            cut -= 0 if self._options.include_stop else len(match.stop)
            self._held = ""
        self.num_released += cut
        return held[:cut]
