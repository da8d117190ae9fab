"""One value that somebody gave, and where."""

import enum
from dataclasses import dataclass

from nimlite.redaction import public


class Origin(enum.StrEnum):
    """The layers, lowest first."""

    DEFAULT = "default"
    PROFILE = "profile"
    FILE = "config file"
    ENVIRONMENT = "environment"
    FLAG = "command line"


@dataclass(frozen=True, slots=True)
class Given:
    """A value as it was given, not yet read."""

    origin: Origin
    place: str
    """A flag, a variable, or file:line: key."""
    value: object

    def __str__(self) -> str:
        return f"{self.place}={shown(self.value)}"


def shown(value: object) -> str:
    """As it can stand in a sentence, on any terminal, for anybody to read."""
    text = public(value if isinstance(value, str) else repr(value))
    return text if text.isprintable() else ascii(text)
