"""Artifacts on the Hugging Face Hub. HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE are huggingface_hub's
to honour."""

import fnmatch
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nimlite.errors import DownloadError, ManifestError
from nimlite.observe.progress import Progress
from nimlite.store.growth import reporting_growth

_WANTED = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "LICENSE*")
"""What serves a model: no pickles, no second copies for other frameworks in sub-directories."""


@dataclass(frozen=True, slots=True)
class HubSource:
    """A model repository, or one file of it."""

    repository: str
    revision: str | None
    member: str | None

    @classmethod
    def parse(cls, uri: str, path: str, member: str | None) -> "HubSource":
        """Raises ManifestError where the organisation or the name is missing."""
        repository, _, revision = path.partition("@")
        if repository.count("/") != 1 or not all(repository.split("/")):
            raise ManifestError(
                f"The artifact {uri!r} should read hf://organisation/name@revision[?file=…]."
            )
        return cls(repository, revision or None, member)

    @property
    def title(self) -> str:
        return f"hf://{self.repository}" + (f"@{self.revision}" if self.revision else "")

    @property
    def file(self) -> str | None:
        return PurePosixPath(self.member).name if self.member else None

    def download(self, stage: Path, size: int | None, progress: Progress) -> Mapping[str, str]:
        """The files that serve the model; huggingface_hub resumes those that were under way."""
        # Imported here: it takes half a second, which a start from a warm cache need not pay.
        from huggingface_hub import HfApi, errors, hf_hub_download

        # HTTPError is that of the HTTP client, which differs between versions of huggingface_hub.
        transport: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]
        failures = (transport, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)
        try:
            info = HfApi().model_info(self.repository, revision=self.revision, files_metadata=True)
            siblings = [s for s in info.siblings or [] if self._is_wanted(s.rfilename)]
            if not siblings:
                raise DownloadError(self._nothing_there())
            total = sum(s.size or 0 for s in siblings)
            with (
                progress.task(f"Download {self.title}", total) as task,
                reporting_growth(stage, task),
            ):
                for sibling in siblings:
                    # With the commit of the listing: the branch may move on while files come in.
                    hf_hub_download(
                        self.repository, sibling.rfilename, revision=info.sha, local_dir=stage
                    )
        except failures as error:
            raise DownloadError(self._sentence(error)) from error
        shutil.rmtree(stage / ".cache", ignore_errors=True)
        if self.member and self.member != self.file:
            (stage / self.member).rename(stage / PurePosixPath(self.member).name)
        return {PurePosixPath(s.rfilename).name: s.lfs.sha256 for s in siblings if s.lfs}

    def _is_wanted(self, name: str) -> bool:
        if self.member:
            return name == self.member
        return "/" not in name and any(fnmatch.fnmatch(name, pattern) for pattern in _WANTED)

    def _nothing_there(self) -> str:
        wanted = self.member or "*.safetensors"
        return f"{self.title} has no file {wanted}: check the name, or name a file with ?file=…."

    def _sentence(self, error: Exception) -> str:
        from huggingface_hub.errors import (
            GatedRepoError,
            OfflineModeIsEnabled,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        match error:
            case GatedRepoError():
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
                hint = (
                    "HF_HUB_OFFLINE is set: unset it, or fill the cache with `nimlite"
                    " download-to-cache` elsewhere."
                )
            case _:
                hint = (
                    "Check the network and HTTPS_PROXY; the next start goes on where this one"
                    " ended."
                )
        return f"{self.title} could not be fetched ({type(error).__name__}). {hint}"
