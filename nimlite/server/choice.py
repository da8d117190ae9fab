"""One sequence of an answer: the engine's deltas as pieces of text."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from nimlite.engine.request import Delta, FinishReason, Logprob
from nimlite.server.detokenizer import Detokenizer, TextOptions
from nimlite.server.output_parser import OutputParser
from nimlite.server.token_bytes import TokenBytes
from nimlite.server.tool_calls import CallDelta, join_calls


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt of a request."""

    token_ids: tuple[int, ...]
    text: str = ""
    """What an echo shows; empty where none was asked for."""


@dataclass(frozen=True, slots=True)
class Position:
    """The log-probability at one token of the text."""

    token_id: int
    offset: int
    """Characters of the answer's text before the token."""
    logprob: Logprob | None
    """None for the first token of an echoed prompt."""


class Piece(NamedTuple):
    """Text of one choice that became certain together.

    (A named tuple, as `Delta`, and for the same reason.)
    """

    choice: int
    """Its index in the answer."""
    text: str = ""
    positions: tuple[Position, ...] = ()
    finish_reason: FinishReason | None = None
    thoughts: str = ""
    """What the model thought before it answered; no part of `text`."""
    calls: tuple[CallDelta, ...] = ()
    """Calls of tools; no part of `text` either."""
    num_calls: int = 0
    """Of the choice, up to here."""
    stop_string: str | None = None
    """The one that ended it."""
    prompt_logprobs: tuple[Logprob | None, ...] = ()
    """Of all tokens of the prompt (None for the first), with the first piece."""

    @property
    def is_empty(self) -> bool:
        return self.finish_reason is None and not (
            self.text or self.positions or self.thoughts or self.calls
        )

    @classmethod
    def join(cls, pieces: Iterable["Piece"]) -> "Piece":
        """The pieces of one choice, in order, as one."""
        joined = tuple(pieces)
        if len(joined) == 1:
            return joined[0]
        return cls(
            choice=joined[0].choice,
            text="".join(piece.text for piece in joined),
            positions=tuple(position for piece in joined for position in piece.positions),
            finish_reason=joined[-1].finish_reason,
            thoughts="".join(piece.thoughts for piece in joined),
            calls=join_calls(call for piece in joined for call in piece.calls),
            num_calls=joined[-1].num_calls,
            stop_string=joined[-1].stop_string,
            prompt_logprobs=joined[0].prompt_logprobs,
        )

    @classmethod
    def join_by_choice(cls, pieces: Iterable["Piece"]) -> list["Piece"]:
        """One piece a choice."""
        found: dict[int, list[Piece]] = {}
        for piece in pieces:
            found.setdefault(piece.choice, []).append(piece)
        return [cls.join(of_one) for of_one in found.values()]


class Choice:
    """Text, log-probabilities and end of one sequence."""

    def __init__(
        self,
        *,
        index: int,
        prompt: Prompt,
        token_bytes: TokenBytes,
        options: TextOptions,
        parser: OutputParser | None = None,
        echo: bool = False,
        discards_output: bool = False,
    ) -> None:
        """`discards_output`: the engine samples a token nobody asked for (`max_tokens` 0)."""
        self.index = index
        self.prompt = prompt
        self.num_tokens = 0
        self.num_cached_tokens = 0
        self.num_thought_tokens = 0
        self.finish_reason: FinishReason | None = None
        self._token_bytes = token_bytes
        self._options = options
        self._parser = parser
        self._echo = echo
        self._discards_output = discards_output
        self._detokenizer = Detokenizer(token_bytes, options)
        self._text_start = 0
        self._waiting_positions: deque[Position] = deque()

    @property
    def stopped_by_text(self) -> bool:
        """A stop string ended it, of which the engine knows nothing."""
        return self._detokenizer.stopped

    @property
    def is_thinking(self) -> bool:
        """Whether what comes next is thought, as far as is known."""
        return self._parser is not None and self._parser.is_thinking

    def feed(self, delta: Delta) -> Piece:
        """What the delta makes certain; its text may be empty."""
        if delta.num_cached_tokens:
            self.num_cached_tokens = delta.num_cached_tokens
        if self._echo:
            return Piece.join([self._echo_prompt(delta.prompt_logprobs), self._output(delta)])
        piece = self._output(delta)
        if delta.prompt_logprobs:
            piece = piece._replace(prompt_logprobs=delta.prompt_logprobs)
        return piece

    def _output(self, delta: Delta) -> Piece:
        self.finish_reason = delta.finish_reason
        if self._discards_output:
            if self.finish_reason is not None:
                self.finish_reason = FinishReason.LENGTH
            return Piece(self.index, finish_reason=self.finish_reason)
        text = self._read_tokens(delta)
        if self.finish_reason is not None:
            text += self._detokenizer.finish()
        if self._detokenizer.stopped:
            self.finish_reason = FinishReason.STOP
        positions = tuple(self._release_positions()) if self._waiting_positions else ()
        piece = Piece(self.index, text, positions, self.finish_reason)
        if self._detokenizer.stopped:
            piece = piece._replace(stop_string=self._detokenizer.stop_string)
        if self._parser is None:
            return piece
        return self._parse(self._parser, piece, len(delta.token_ids))

    def _parse(self, parser: OutputParser, piece: Piece, num_tokens: int) -> Piece:
        was_thinking = parser.is_thinking
        is_last = piece.finish_reason is not None
        thoughts, content, calls = parser.feed(piece.text, is_last=is_last)
        if was_thinking or parser.is_thinking:
            self.num_thought_tokens += num_tokens
        return piece._replace(
            text=content, thoughts=thoughts, calls=calls, num_calls=parser.num_calls
        )

    def _read_tokens(self, delta: Delta) -> str:
        text = ""
        for i, token_id in enumerate(delta.token_ids):
            self.num_tokens += 1
            is_stop = delta.stop_token_id is not None and i == len(delta.token_ids) - 1
            if is_stop and not self._options.include_stop:
                break
            if delta.logprobs:
                offset = self._text_start + self._detokenizer.num_decoded
                self._waiting_positions.append(Position(token_id, offset, delta.logprobs[i]))
            text += self._detokenizer.feed(token_id)
            if self._detokenizer.stopped:
                break
        return text

    def _release_positions(self) -> Iterable[Position]:
        """Those of the released text; at a stop string the ones behind the cut are dropped."""
        waiting = self._waiting_positions
        end = self._text_start + self._detokenizer.num_released
        is_complete = self.finish_reason is not None and not self.stopped_by_text
        while waiting and (is_complete or waiting[0].offset < end):
            yield waiting.popleft()

    def _echo_prompt(self, logprobs: tuple[Logprob | None, ...]) -> Piece:
        """The prompt as the first piece, once."""
        self._echo = False
        self._text_start = len(self.prompt.text)
        options = TextOptions(skip_special_tokens=self._options.skip_special_tokens)
        detokenizer = Detokenizer(self._token_bytes, options)
        positions = []
        # Without log-probabilities there is nothing to locate.
        located = self.prompt.token_ids if logprobs else ()
        for token_id, logprob in zip(located, logprobs, strict=True):
            positions.append(Position(token_id, detokenizer.num_decoded, logprob))
            detokenizer.feed(token_id)
        return Piece(
            choice=self.index,
            text=self.prompt.text,
            positions=tuple(positions),
            prompt_logprobs=logprobs,
        )
