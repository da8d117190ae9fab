"""Who asks, and what the headers say about the request as a whole."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from starlette.types import Scope

from nimlite.errors import DeadlineError, NimliteError, RequestError
from nimlite.server.api_keys import KEY, NO_KEY, Key

REQUEST_ID = "nimlite.request_id"
"""Under which a request's id stands in its scope."""
MAX_TIMEOUT_S = 86400.0
_NUMBER = re.compile(rb"\d{1,9}(\.\d{1,9})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Of one request."""

    key: Key = NO_KEY
    address: str = ""
    request_id: str = ""
    timeout_s: float | None = None
    """Of `X-Request-Timeout`."""

    @classmethod
    def of(cls, scope: Scope) -> Self:
        """Raises RequestError for a time-out that is none."""
        return cls(
            key=scope.get(KEY, NO_KEY),
            address=(scope.get("client") or ("",))[0],
            request_id=scope.get(REQUEST_ID, ""),
            timeout_s=_timeout_s(dict(scope["headers"]).get(b"x-request-timeout")),
        )

    def client(self, user: str) -> str:
        """Whom the engine takes this for where clients share it: the key, else the `user` that the
        body names, else the address."""
        if self.key.name:
            return f"key {self.key.name}"
        return f"user {user}" if user else f"address {self.address}"

    def on_deadline(self, interrupt: Callable[[NimliteError], None]) -> Callable[[], None]:
        """From now on the time runs. Returns what stops it."""
        if self.timeout_s is None:
            return lambda: None
        error = DeadlineError(
            f"The answer was not complete after the {self.timeout_s:g} seconds of the request's "
            "X-Request-Timeout."
        )
        return asyncio.get_running_loop().call_later(self.timeout_s, interrupt, error).cancel


def _timeout_s(header: bytes | None) -> float | None:
    if header is None:
        return None
    seconds = float(header) if _NUMBER.fullmatch(header) else 0.0
    if not 0 < seconds <= MAX_TIMEOUT_S:
        raise RequestError(
            f"Invalid value for the header 'X-Request-Timeout': expected seconds, more than 0 and "
            f"at most {MAX_TIMEOUT_S:.0f}, got {header[:40].decode('latin-1')!r}.",
            param="X-Request-Timeout",
            code="invalid_value",
        )
    return seconds
