"""API keys: who may ask, by `Authorization: Bearer KEY` or Anthropic's `X-Api-Key: KEY`."""

import hashlib
import hmac
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from starlette.types import ASGIApp, Receive, Scope, Send

from nimlite.errors import AuthenticationError, SettingError
from nimlite.server.errors import error_response
from nimlite.settings.values import key_digest

OPEN_PATHS = (
    "/v1/health/live",
    "/v1/health/ready",
    "/v1/metrics",
    "/",
    "/page/page.js",
    "/page/style.css",
)
"""Answered without a key: to probes, to scrapers, and to a browser that is yet to ask for one."""


KEY = "nimlite.key"
"""Under which the `Key` of a request stands in its scope."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What a key may have."""

    name: str = ""
    """The beginning of its digest."""
    weight: float = 1.0
    """Its share of the engine where keys compete, beside 1 for others."""
    max_in_flight: int | None = None
    """Requests at a time."""
    tokens_per_minute: int | None = None
    """Of prompts and answers."""


NO_KEY = Key()
"""Of who needs none."""
_LIMITS: dict[str, Callable[[str], float]] = {
    "weight": float,
    "max_in_flight": int,
    "tokens_per_minute": int,
}


@dataclass(frozen=True, slots=True)
class ApiKeys:
    """The keys as hex SHA-256 digests; the keys themselves are not kept. None: all may ask."""

    digests: frozenset[str] = frozenset()
    limited: Mapping[str, Key] = field(default_factory=dict)
    """By digest, those with limits of their own."""

    @classmethod
    def read(cls, digests: Iterable[str], file: Path | None, *, asked: str) -> Self:
        """With those in `file`: one a line, like NIM_API_KEY's, and behind it perhaps its limits;
        `#` begins a comment line.

        `asked`: who named the file. Raises SettingError for one that can't be read, that holds no
        key, or a line that is none.
        """
        if file is None:
            return cls(frozenset(digests))
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise SettingError(f"{asked} can't be read: {reason}.") from error
        keys = {n: line.strip() for n, line in enumerate(lines, 1) if line.strip()}
        in_file = dict(
            _read_line(file, n, key) for n, key in keys.items() if not key.startswith("#")
        )
        if not in_file:
            raise SettingError(f"{asked} holds no key: write one a line, or unset it.")
        limited = {digest: key for digest, key in in_file.items() if key is not None}
        return cls(frozenset((*digests, *in_file)), limited)

    def find(self, key: bytes) -> Key | None:
        """None for a wrong one. In a time that says nothing of the keys."""
        digest = hashlib.sha256(key).hexdigest()
        if not sum(hmac.compare_digest(digest, known) for known in self.digests):
            return None
        return self.limited.get(digest) or Key(name=_name(digest))


class KeyCheck:
    """ASGI middleware: 401 before the body is read, but for `OPEN_PATHS`."""

    def __init__(self, app: ASGIApp, *, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_open = not self._keys.digests or scope["path"] in OPEN_PATHS
        given = [] if is_open else list(_keys_of(scope))
        found = next(filter(None, map(self._keys.find, given)), NO_KEY if is_open else None)
        if found is not None:
            scope[KEY] = found
            await self._app(scope, receive, send)
            return
        what = "The API key is not one of this server's" if given else "An API key is needed"
        error = AuthenticationError(f"{what}: send it as 'Authorization: Bearer KEY'.")
        response = error_response(error, scope["path"], retry_after_s=0)
        response.headers["WWW-Authenticate"] = "Bearer"
        await response(scope, receive, send)


def _keys_of(scope: Scope) -> Iterator[bytes]:
    for name, value in scope["headers"]:
        scheme, _, key = value.partition(b" ")
        if name == b"x-api-key":
            yield value.strip()
        elif name == b"authorization" and scheme.lower() == b"bearer":
            yield key.strip()


def _name(digest: str) -> str:
    return digest[:16]


def _read_line(file: Path, number: int, line: str) -> tuple[str, Key | None]:
    """The digest, and the key where it has limits."""
    key, *limits = line.split()
    try:
        digest = key_digest(key)
    except ValueError as error:
        raise SettingError(f"{file}:{number}: no key. Allowed: {error}.") from error
    if not limits:
        return digest, None
    read = dict(_read_limit(file, number, limit) for limit in limits)
    return digest, Key(name=_name(digest), **read)


def _read_limit(file: Path, number: int, limit: str) -> tuple[str, Any]:
    name, _, text = limit.partition("=")
    try:
        value = _LIMITS[name](text)
        if not 0 < value < math.inf:
            raise ValueError
    except (KeyError, ValueError):
        # Not its text: it may be another key.
        what = f"the {name}" if name in _LIMITS else "what stands behind the key"
        raise SettingError(
            f"{file}:{number}: {what} can't be used. Allowed: "
            f"{', '.join(f'{known}=N' for known in _LIMITS)}, with N over 0."
        ) from None
    return name, value
