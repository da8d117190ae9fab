"""Finds stop strings in text that arrives in pieces."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StopMatch:
    """The stop string that was completed first; of those that end together, the longest."""

    end: int
    """Characters of the latest piece up to and including the stop string's last."""
    stop: str
    """The stop string."""


class StopMatcher:
    """Knuth, Morris and Pratt's automaton for each stop string: O(1), amortised, a character."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._failures = tuple(_failure_function(stop) for stop in stops)
        self._matched = [0] * len(stops)

    @property
    def pending(self) -> int:
        """Characters at the end of the text so far that may yet become a stop string."""
        return max(self._matched, default=0)

    def feed(self, text: str) -> StopMatch | None:
        """Read on. After a match the matcher is used up."""
        for position, character in enumerate(text):
            longest = ""
            for i, stop in enumerate(self._stops):
                matched = self._matched[i]
                while matched and stop[matched] != character:
                    matched = self._failures[i][matched - 1]
                matched += stop[matched] == character
                self._matched[i] = matched
                if matched == len(stop):
                    longest = max(longest, stop, key=len)
            if longest:
                return StopMatch(position + 1, longest)
        return None


def _failure_function(stop: str) -> list[int]:
    """For each prefix of `stop`, the length of its longest proper suffix that is also a prefix."""
    failures = [0]
    for character in stop[1:]:
        length = failures[-1]
        while length and stop[length] != character:
            length = failures[length - 1]
        failures.append(length + (stop[length] == character))
    return failures
