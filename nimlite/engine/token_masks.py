"""Which tokens may come next in each sequence with a grammar.

A matcher's state follows from its sequence's outputs alone: it takes in what it has not seen yet,
and one that comes back after a preemption, without a matcher, is matched anew from its first
output.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from llguidance import LLMatcher

from nimlite.engine.grammar import GrammarCompiler, fault
from nimlite.engine.plan import ScheduledChunk
from nimlite.engine.sequence import Sequence as RequestSequence

_ALL = 0xFFFFFFFF
"""A word that lets every token pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenMask:
    """For some rows of a step, the tokens that may be sampled."""

    rows: tuple[int, ...]
    """Their places among the step's sampling rows."""
    bits_GW: np.ndarray
    """uint32, one row of bits for each of `rows`: token t may come where bit t % 32 of word t // 32
    is set. Never none of a row."""
    errors: dict[int, str]
    """By place: why nothing can follow. All its bits are set."""


@dataclass(slots=True)
class _Matched:
    matcher: LLMatcher
    num_tokens: int
    """How many of the sequence's tokens it has seen or passed over."""


class TokenMasks:
    """The matchers of the sequences that the latest step sampled for."""

    def __init__(self, compiler: GrammarCompiler) -> None:
        self._compiler = compiler
        self._matched: dict[RequestSequence, _Matched] = {}

    def fill(
        self,
        chunks: Sequence[ScheduledChunk],
        pending: Callable[[RequestSequence], int],
    ) -> TokenMask | None:
        """The mask of a step that samples after each of `chunks` and behind each of their drafts,
        None without a grammar.

        `pending`: the output that the step before sampled for a sequence and that it does not know
        of yet; only then it is called.
        """
        first_rows = itertools.accumulate((1 + len(c.drafts) for c in chunks), initial=0)
        constrained = [
            (row, chunk)
            for row, chunk in zip(first_rows, chunks, strict=False)
            if chunk.sequence.request.grammar is not None
        ]
        if not constrained:
            self._matched = {}
            return None
        self._matched = {chunk.sequence: self._advanced(chunk, pending) for _, chunk in constrained}
        rows = [row + i for row, chunk in constrained for i in range(1 + len(chunk.drafts))]
        bits_GW = np.full((len(rows), -(-self._compiler.vocab_size // 32)), _ALL, np.uint32)
        errors: dict[int, str] = {}
        written = iter(zip(bits_GW, rows, strict=True))
        for _, chunk in constrained:
            own = itertools.islice(written, 1 + len(chunk.drafts))
            matcher = self._matched[chunk.sequence].matcher
            if not _write(chunk, matcher, list(own), errors):
                del self._matched[chunk.sequence]  # it is matched anew
        return TokenMask(rows=tuple(rows), bits_GW=bits_GW, errors=errors)

    def _advanced(
        self, chunk: ScheduledChunk, pending: Callable[[RequestSequence], int]
    ) -> _Matched:
        """The sequence's matcher behind all of its outputs."""
        sequence = chunk.sequence
        matched = self._matched.get(sequence)
        if matched is None:
            grammar = sequence.request.grammar
            assert grammar is not None
            first = sequence.num_prompt_tokens - sequence.request.num_written
            matched = _Matched(self._compiler.matcher(grammar), first)
        missing = sequence.token_ids[matched.num_tokens :]
        if sequence.num_prompt_tokens + chunk.output_index > len(sequence.token_ids):
            missing.append(pending(sequence))
        if missing:
            matched.matcher.consume_tokens(missing)
            matched.num_tokens += len(missing)
        return matched


def _write(
    chunk: ScheduledChunk,
    matcher: LLMatcher,
    rows: Sequence[tuple[np.ndarray, int]],
    errors: dict[int, str],
) -> bool:
    """The bits of the chunk's rows, as far as the grammar lets its drafts pass: what is behind one
    that can't be sampled does not count. Whether the matcher is as it was."""
    num_passed = 0
    for count, (bits_W, row) in enumerate(rows):
        if count and not matcher.try_consume_tokens([chunk.drafts[count - 1]]):
            break
        num_passed = count
        matcher.unsafe_compute_mask_ptr(bits_W.ctypes.data, bits_W.nbytes)
        if matcher.is_error():
            errors[row] = f"The grammar can't be followed any further: {fault(matcher)}."
            bits_W[:] = _ALL
            break
        _forbid(bits_W, _unwanted(chunk.sequence, chunk.output_index + count))
    return not num_passed or matcher.rollback(num_passed)


def _unwanted(sequence: RequestSequence, output_index: int) -> frozenset[int]:
    """Tokens that the parameters forbid where the grammar leaves a choice."""
    params = sequence.request.params
    ends = sequence.end_token_ids if params.ignore_eos else frozenset[int]()
    return ends | sequence.stop_token_ids if output_index < params.min_tokens else ends


def _forbid(bits_W: np.ndarray, token_ids: frozenset[int]) -> None:
    """Clear the tokens' bits, unless none would be left."""
    if not token_ids:
        return
    others_W = bits_W.copy()
    for token_id in token_ids:
        others_W[token_id // 32] &= ~np.uint32(1 << token_id % 32)
    if others_W.any():
        bits_W[:] = others_W
