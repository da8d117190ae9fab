"""API keys: who may ask, by `Authorization: Bearer KEY` or Anthropic's `X-Api-Key: KEY`."""

import hashlib
import hmac
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

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


@dataclass(frozen=True, slots=True)
class ApiKeys:
    """The keys as hex SHA-256 digests; the keys themselves are not kept. None: all may ask."""

    digests: frozenset[str] = frozenset()

    @classmethod
    def read(cls, digests: Iterable[str], file: Path | None, *, asked: str) -> Self:
        """With those in `file`: one a line, like NIM_API_KEY's; `#` begins a comment line.

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
        in_file = [_read_line(file, n, key) for n, key in keys.items() if not key.startswith("#")]
        if not in_file:
            raise SettingError(f"{asked} holds no key: write one a line, or unset it.")
        return cls(frozenset((*digests, *in_file)))

    def admit(self, key: bytes) -> bool:
        """In a time that says nothing of the keys."""
        digest = hashlib.sha256(key).hexdigest()
        return sum(hmac.compare_digest(digest, known) for known in self.digests) > 0


class KeyCheck:
    """ASGI middleware: 401 before the body is read, but for `OPEN_PATHS`."""

    def __init__(self, app: ASGIApp, *, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_open = not self._keys.digests or scope["path"] in OPEN_PATHS
        given = [] if is_open else list(_keys_of(scope))
        if is_open or any(self._keys.admit(key) for key in given):
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


def _read_line(file: Path, number: int, key: str) -> str:
    try:
        return key_digest(key)
    except ValueError as error:
        raise SettingError(f"{file}:{number}: no key. Allowed: {error}.") from error
