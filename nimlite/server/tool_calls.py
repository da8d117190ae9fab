"""Calls of tools in an answer, as every protocol sends them on."""

import secrets
import string
from collections.abc import Iterable
from typing import NamedTuple

_LETTERS = string.ascii_letters + string.digits


class CallDelta(NamedTuple):
    """The next part of one call."""

    number: int
    """Among the calls of one choice."""
    id: str = ""
    """Comes with the first part, as the name does."""
    name: str = ""
    arguments: str = ""
    """Together, the text of a JSON object."""


def join_calls(deltas: Iterable[CallDelta]) -> tuple[CallDelta, ...]:
    """One delta a call."""
    joined: dict[int, CallDelta] = {}
    for delta in deltas:
        before = joined.get(delta.number)
        if before is not None:
            delta = before._replace(arguments=before.arguments + delta.arguments)
        joined[delta.number] = delta
    return tuple(joined.values())


def new_call_id(*, is_short: bool) -> str:
    """An id for one call, as OpenAI's; or as Mistral's, nine letters and digits."""
    if is_short:
        return "".join(secrets.choice(_LETTERS) for _ in range(9))
    return f"call_{secrets.token_hex(12)}"
