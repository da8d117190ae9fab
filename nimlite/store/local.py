"""Artifacts that are already on this machine: used where they lie, never copied or removed."""

from dataclasses import dataclass
from pathlib import Path

from nimlite.errors import ChecksumError, DownloadError
from nimlite.store.digest import sha256_of
from nimlite.store.model_store import check_model_store


@dataclass(frozen=True, slots=True)
class LocalSource:
    """A file or a directory."""

    path: Path

    def verified(self, sha256: str | None) -> Path:
        """The path. Raises DownloadError where nothing is there, ChecksumError for a file with
        another digest, and for a model store with a damaged one."""
        if not self.path.exists():
            raise DownloadError(f"There is no file or directory {self.path}: check the path.")
        if sha256 and self.path.is_file() and (found := sha256_of(self.path)) != sha256:
            raise ChecksumError(
                f"{self.path} has sha256 {found}, but {sha256} is pinned. It is your own file, so"
                " it was left alone: replace it, or correct the pin."
            )
        check_model_store(self.path)
        return self.path
