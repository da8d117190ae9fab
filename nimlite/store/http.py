"""Artifacts behind a URL: resumed where they broke off."""

import shlex
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import requests

from nimlite.errors import DownloadError, UnreachableError
from nimlite.observe.progress import Progress
from nimlite.redaction import public
from nimlite.store.transfer import Transfer


@dataclass(frozen=True, slots=True)
class HTTPSource:
    """One file at `url`."""

    url: str
    num_connections: int = 1
    retry_delays_s: tuple[float, ...] = (1, 2, 4, 8)

    @property
    def title(self) -> str:
        return public(self.url)

    @property
    def file(self) -> str:
        return PurePosixPath(unquote(urlsplit(self.url).path)).name or "artifact"

    @property
    def own_command(self) -> str:
        return f"curl -fLO {shlex.quote(self.title)}"

    def download(self, stage: Path, size: int | None, progress: Progress) -> Mapping[str, str]:
        """Into `<name>.part`, renamed when it is whole."""
        transfer = Transfer(
            url=self.url,
            target=stage / self.file,
            num_connections=self.num_connections,
            retry_delays_s=self.retry_delays_s,
        )
        try:
            with ExitStack() as stack:
                title = f"Download {self.file}"
                transfer.run(lambda told: stack.enter_context(progress.task(title, told or size)))
        except requests.RequestException as error:
            raise self._told(error) from error
        return {}

    def missing(self, stage: Path) -> tuple[str, ...]:
        return () if (stage / self.file).exists() else (self.file,)

    def _told(self, error: requests.RequestException) -> DownloadError:
        status = error.response.status_code if error.response is not None else None
        match status:
            case 401 | 403:
                hint = (
                    "The server wants a login or refuses this one: put it into ~/.netrc or the URL."
                )
            case 404 | 410:
                hint = "There is no such file: check the URL."
            case None:
                hint = (
                    "The server can't be reached or broke off: check the network and HTTPS_PROXY."
                    " The next start goes on where this one ended."
                )
            case _:
                hint = "The server failed: try again later."
        reason = f"HTTP {status}" if status else type(error).__name__
        kind = DownloadError if status else UnreachableError
        return kind(f"{self.title} could not be fetched ({reason}). {hint}")
