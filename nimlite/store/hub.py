"""Artifacts on the Hugging Face Hub. HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE are huggingface_hub's
to honour; the files themselves are fetched by us, since it begins a broken one anew."""

import fnmatch
import json
import shlex
import shutil
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import requests

from nimlite.errors import DownloadError, ManifestError, UnreachableError
from nimlite.observe.progress import Progress, Task
from nimlite.store.disk import require_space
from nimlite.store.growth import size_of
from nimlite.store.transfer import Transfer

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

_WANTED = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "LICENSE*")
"""What serves a model: no pickles, no second copies for other frameworks in sub-directories."""
_POOLING = "*_Pooling/config.json"
"""Of sentence-transformers: kept with a dot for the slash, for artifacts have no folders."""
_LISTING = ".listing"
"""The folder of a download that holds what the repository has: bytes by file."""


@dataclass(frozen=True, slots=True)
class HubSource:
    """A model repository, or one file of it."""

    repository: str
    revision: str | None
    member: str | None
    num_connections: int = 1
    retry_delays_s: tuple[float, ...] = (1, 2, 4, 8)

    @classmethod
    def parse(
        cls, uri: str, path: str, member: str | None, num_connections: int = 1
    ) -> "HubSource":
        """Raises ManifestError where the organisation or the name is missing."""
        repository, _, revision = path.partition("@")
        if repository.count("/") != 1 or not all(repository.split("/")):
            raise ManifestError(
                f"The artifact {uri!r} should read hf://organisation/name@revision[?file=…]."
            )
        return cls(repository, revision or None, member, num_connections)

    @property
    def title(self) -> str:
        return f"hf://{self.repository}" + (f"@{self.revision}" if self.revision else "")

    @property
    def file(self) -> str | None:
        return PurePosixPath(self.member).name if self.member else None

    @property
    def own_command(self) -> str:
        words = ["hf", "download", self.repository, *([self.member] if self.member else [])]
        words += ["--revision", self.revision] if self.revision else []
        return shlex.join([*words, "--local-dir", self.repository.partition("/")[2]])

    def download(self, stage: Path, size: int | None, progress: Progress) -> Mapping[str, str]:
        """The files that serve the model, several at once."""
        # Imported here: it takes half a second, which a start from a warm cache need not pay.
        from huggingface_hub import HfApi, errors

        # HTTPError is that of the HTTP client, which differs between versions of huggingface_hub.
        transport: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]
        try:
            info = HfApi().model_info(self.repository, revision=self.revision, files_metadata=True)
            siblings = [s for s in info.siblings or [] if self._is_wanted(s.rfilename)]
            if not siblings:
                raise DownloadError(self._nothing_there())
            # By the commit of the listing: the branch may move on while files come in.
            self._fetch(stage, info.sha or "main", siblings, progress)
        except (transport, errors.OfflineModeIsEnabled, requests.RequestException) as error:
            raise self._told(error) from error
        shutil.rmtree(stage / _LISTING)
        return {PurePosixPath(s.rfilename).name: s.lfs.sha256 for s in siblings if s.lfs}

    def missing(self, stage: Path) -> tuple[str, ...]:
        with suppress(OSError, ValueError):
            sizes: dict[str, int] = json.loads(_listing(stage).read_text())
            return tuple(
                f"{name} ({size / 1e6:,.1f} MB)"
                for name, size in sizes.items()
                if not _target(stage, name).exists()
            )
        if self.member:
            return (self.member,)
        return ("config.json", "all *.safetensors", "the tokenizer's files")

    def _fetch(
        self, stage: Path, commit: str, siblings: "list[RepoSibling]", progress: Progress
    ) -> None:
        sizes = {s.rfilename: s.size or 0 for s in siblings}
        _listing(stage).parent.mkdir(exist_ok=True)
        _listing(stage).write_text(json.dumps(sizes))
        total = sum(sizes.values())
        require_space(stage, total - size_of(stage), self.title)
        with (
            progress.task(f"Download {self.title}", total) as inner,
            ThreadPoolExecutor(self.num_connections) as threads,
        ):
            task = _Shared(inner)
            for name, size in sizes.items():
                task.advance(size if _target(stage, name).exists() else 0)
            transfers = [self._transfer(stage, commit, name, len(sizes)) for name in sizes]
            running = [threads.submit(each.run, lambda _: task) for each in transfers]
            try:
                for each in running:
                    each.result()
            finally:
                threads.shutdown(cancel_futures=True)

    def _transfer(self, stage: Path, commit: str, name: str, num_files: int) -> Transfer:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        return Transfer(
            url=hf_hub_url(self.repository, name, revision=commit),
            target=_target(stage, name),
            headers=build_hf_headers(),
            num_connections=max(1, self.num_connections // num_files),
            retry_delays_s=self.retry_delays_s,
        )

    def _is_wanted(self, name: str) -> bool:
        if self.member:
            return name == self.member
        if fnmatch.fnmatch(name, _POOLING):
            return name.count("/") == 1
        return "/" not in name and any(fnmatch.fnmatch(name, pattern) for pattern in _WANTED)

    def _nothing_there(self) -> str:
        wanted = self.member or "*.safetensors"
        return f"{self.title} has no file {wanted}: check the name, or name a file with ?file=…."

    def _told(self, error: Exception) -> DownloadError:
        from huggingface_hub.errors import (
            GatedRepoError,
            OfflineModeIsEnabled,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        refused = (
            isinstance(error, requests.HTTPError)
            and error.response is not None
            and error.response.status_code in (401, 403)
        )
        kind: type[DownloadError] = DownloadError
        match error:
            case _ if refused or isinstance(error, GatedRepoError):
                hint = (
                    f"Its licence must be accepted first: do so on the page of {self.repository},"
                    " and set HF_TOKEN."
                )
            case RevisionNotFoundError():
                hint = (
                    f"The repository is there, but has no revision {self.revision!r}: check the"
                    " part after the @."
                )
            case RepositoryNotFoundError():
                hint = (
                    "There is no such repository, or it is private: check the name, or set"
                    " HF_TOKEN."
                )
            case OfflineModeIsEnabled():
                kind, hint = UnreachableError, "HF_HUB_OFFLINE is set."
            case _:
                kind = UnreachableError
                hint = (
                    "Check the network and HTTPS_PROXY; the next start goes on where this one"
                    " ended."
                )
        return kind(f"{self.title} could not be fetched ({type(error).__name__}). {hint}")


class _Shared:
    """A `Task` that several threads advance."""

    def __init__(self, inner: Task) -> None:
        self._inner = inner
        self._mutex = threading.Lock()

    def advance(self, amount: float) -> None:
        with self._mutex:
            self._inner.advance(amount)


def _target(stage: Path, name: str) -> Path:
    if fnmatch.fnmatch(name, _POOLING):
        return stage / name.replace("/", ".")
    return stage / PurePosixPath(name).name


def _listing(stage: Path) -> Path:
    return stage / _LISTING / "files.json"
