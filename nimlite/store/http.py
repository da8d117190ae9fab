"""Artifacts behind a URL: resumed where they broke off."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import requests

from nimlite.errors import DownloadError
from nimlite.observe.progress import Progress
from nimlite.redaction import public

log = logging.getLogger(__name__)

_TIMEOUT_S = (10, 60)
_BLOCK_BYTES = 1 << 16
"""A broken connection loses the block under way."""
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class HTTPSource:
    """One file at `url`."""

    url: str
    retry_delays_s: tuple[float, ...] = (1, 2, 4, 8)

    @property
    def title(self) -> str:
        return public(self.url)

    @property
    def file(self) -> str:
        return PurePosixPath(unquote(urlsplit(self.url).path)).name or "artifact"

    def download(self, stage: Path, size: int | None, progress: Progress) -> Mapping[str, str]:
        """Into `<name>.part`, renamed when it is whole. Every retry goes on where the last one
        ended."""
        part = stage / f"{self.file}.part"
        if (stage / self.file).exists():
            part.with_suffix(".validator").unlink(missing_ok=True)
            return {}
        for delay_s in (*self.retry_delays_s, None):
            try:
                self._attempt(part, size, progress)
                break
            except requests.RequestException as error:
                if delay_s is None or not _is_transient(error):
                    raise DownloadError(self._sentence(error)) from error
                log.warning("%s broke off; trying again in %g s (%s).", self.title, delay_s, error)
                time.sleep(delay_s)
        part.rename(stage / self.file)
        part.with_suffix(".validator").unlink(missing_ok=True)
        return {}

    def _attempt(self, part: Path, size: int | None, progress: Progress) -> None:
        validator = part.with_suffix(".validator")
        have = part.stat().st_size if part.exists() and validator.exists() else 0
        headers = {"Accept-Encoding": "identity"}
        if have:
            # If-Range: the server sends the whole file again where it is no longer the one we have
            # a part of.
            headers |= {"Range": f"bytes={have}-", "If-Range": validator.read_text()}
        with requests.get(self.url, headers=headers, stream=True, timeout=_TIMEOUT_S) as response:
            if response.status_code == 416:
                validator.unlink()
                raise requests.ConnectionError("the part on the disk is not a part of that file")
            response.raise_for_status()
            have = have if response.status_code == 206 else 0
            # Without a strong validator there is no telling whether a later answer continues this
            # one.
            if tag := response.headers.get("ETag", response.headers.get("Last-Modified")):
                validator.write_text(tag)
            length = response.headers.get("Content-Length")
            total = have + int(length) if length else size
            with progress.task(f"Download {self.file}", total) as task:
                task.advance(have)
                with part.open("ab" if have else "wb") as file:
                    for block in response.iter_content(_BLOCK_BYTES):
                        file.write(block)
                        task.advance(len(block))

    def _sentence(self, error: requests.RequestException) -> str:
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
                    "The server can't be reached or broke off: check the network and HTTPS_PROXY. "
                    "The next start goes on where this one ended."
                )
            case _:
                hint = "The server failed: try again later."
        reason = f"HTTP {status}" if status else type(error).__name__
        return f"{self.title} could not be fetched ({reason}). {hint}"


def _is_transient(error: requests.RequestException) -> bool:
    if error.response is not None:
        return error.response.status_code in _TRANSIENT
    retried = requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError
    return isinstance(error, retried)
