"""The cache directory.

root/artifacts/<name>/      what was downloaded, with artifact.json
root/artifacts/<name>.part/ a download under way or broken off; the next one goes on from it
root/engines/<family>/<key>/    engine directories
root/kernels/               compiled kernels
root/digests/               what large files were found to hold
root/failures/<key>         why the engine with that key failed its self-test
"""

import hashlib
import logging
import os
import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

from nimlite.errors import ChecksumError, DownloadError, UnreachableError
from nimlite.observe.progress import Progress
from nimlite.profiles.manifest import Artifact
from nimlite.store.block_digest import block_sha256
from nimlite.store.digest import FileDigest, damaged_files, digest_files
from nimlite.store.digest_receipts import DigestReceipts
from nimlite.store.disk import writing_to
from nimlite.store.durable import publish
from nimlite.store.inventory import use
from nimlite.store.local import LocalSource
from nimlite.store.receipt import RECEIPT_FILE, Receipt
from nimlite.store.sources import Source, source_of
from nimlite.store.turn import turn

log = logging.getLogger(__name__)


class Store:
    """The cache in `root`. Several processes may share it. A warm cache is only read: no network,
    and no write but that of the time of its last use. `num_connections`: that a download opens."""

    def __init__(self, root: Path, *, offline: bool = False, num_connections: int = 8) -> None:
        self.root = root
        self._offline = offline
        self._num_connections = num_connections
        self._receipts = DigestReceipts(root / "digests")
        self._block_receipts = DigestReceipts(root / "digests" / "blocks", block_sha256)

    def engine_path(self, family: str, key: str) -> Path:
        """Where the engine directory with that key is, or will be."""
        return self.root / "engines" / re.sub(r"[^\w.-]+", "-", family) / key

    def sha256(self, path: Path) -> str:
        """Of a file anywhere; that of a large one is remembered until the file changes."""
        return self._receipts.sha256(path)

    def block_sha256(self, path: Path) -> str:
        """A digest of a file anywhere, made faster than `sha256`, and remembered too."""
        return self._block_receipts.sha256(path)

    @property
    def kernels(self) -> Path:
        """Where compiled kernels are kept."""
        return self.root / "kernels"

    def fetch(self, artifact: Artifact, progress: Progress) -> Path:
        """The artifact's file or directory, fetched unless it is here and whole. Until this process
        ends it counts as in use.

        Raises ManifestError for a URI that can't be read, DownloadError, ChecksumError, and
        ArtifactError for a cache
        directory that can't be written.
        """
        source = source_of(artifact.uri, self._num_connections)
        if isinstance(source, LocalSource):
            return source.verified(artifact.sha256)
        return self._fetch(source, artifact, artifact, progress)

    def fetch_file(self, repository: Artifact, name: str, progress: Progress) -> Path:
        """A file of a Hub repository without the others: from the cached repository, or by itself.
        Raises as `fetch` does."""
        home = self._home(repository, self._remote(repository))
        receipt = Receipt.read(home)
        known = {name: receipt.files[name]} if receipt and name in receipt.files else None
        if known and not damaged_files(home, known) and use(home, RECEIPT_FILE):
            return home / name
        alone = Artifact(uri=f"{repository.uri}?file={name}")
        return self._fetch(self._remote(alone), alone, repository, progress)

    def _fetch(
        self, source: Source, artifact: Artifact, whole: Artifact, progress: Progress
    ) -> Path:
        """`whole`: what the user will need in the end."""
        home = self._home(artifact, source)
        try:
            if self._damage(home, source, artifact) != {}:
                self._replace(home, source, artifact, progress)
            while not use(home, RECEIPT_FILE):  # removed in this very moment
                self._replace(home, source, artifact, progress)
        except UnreachableError as error:
            raise DownloadError(f"{error} {self._way_out(whole)}") from error
        return home / source.file if source.file else home

    def _remote(self, artifact: Artifact) -> Source:
        source = source_of(artifact.uri, self._num_connections)
        assert not isinstance(source, LocalSource), "a path needs no download"
        return source

    def _home(self, artifact: Artifact, source: Source) -> Path:
        return self.root / "artifacts" / _directory_name(artifact.uri, source.title)

    def _way_out(self, artifact: Artifact) -> str:
        """What is missing of the artifact, and how to fetch it on another machine."""
        source = self._remote(artifact)
        home = self._home(artifact, source)
        damage = self._damage(home, source, artifact)
        stage = home.with_name(f"{home.name}.part")
        missing = source.missing(stage) if damage is None else tuple(damage)
        uri = shlex.quote(artifact.shown)
        command = f"nimlite download-to-cache {uri} --cache-path nimlite-cache"
        own = (
            f"; or run `{source.own_command}`, and serve what it made" if source.own_command else ""
        )
        return (
            f"Missing in the cache {self.root}: {', '.join(missing)}. On a machine with a network,"
            f" run `{command}`, and copy what is then in nimlite-cache into {self.root} here{own}."
        )

    def _replace(self, home: Path, source: Source, artifact: Artifact, progress: Progress) -> None:
        if self._offline:
            raise UnreachableError(
                f"{source.title} is not whole in the cache, and the network is not to be used."
            )
        with writing_to(self.root):
            home.parent.mkdir(parents=True, exist_ok=True)
            with turn(home.with_name(f"{home.name}.lock"), progress) as shown:
                # Another process may have fetched it while this one waited for the lock.
                damage = self._damage(home, source, artifact)
                if damage != {}:
                    stage = home.with_name(f"{home.name}.part")
                    _take_back(home, stage, damage)
                    self._download(stage, source, artifact, shown)
                    publish(stage, home)

    def _damage(self, home: Path, source: Source, artifact: Artifact) -> Mapping[str, str] | None:
        """The damaged files of the artifact, each with what is wrong; None where it was never
        fetched."""
        receipt = Receipt.read(home)
        if receipt is None:
            return None
        expected = dict(receipt.files)
        if artifact.sha256 and source.file:
            expected[source.file] = FileDigest(expected[source.file].size, artifact.sha256)
        return damaged_files(home, expected, self.sha256)

    def _download(
        self, stage: Path, source: Source, artifact: Artifact, progress: Progress
    ) -> None:
        """Fill and verify `stage`; a file with a wrong digest is removed from it."""
        stage.mkdir(exist_ok=True)
        (stage / RECEIPT_FILE).unlink(missing_ok=True)  # of one that was killed before its end
        stated = dict(source.download(stage, artifact.size, progress))
        if artifact.sha256 and source.file:
            stated[source.file] = artifact.sha256
        files = digest_files(stage, (p.name for p in stage.iterdir() if p.is_file()), self.sha256)
        for name, sha256 in stated.items():
            if (found := files[name].sha256) != sha256:
                (stage / name).unlink()
                raise ChecksumError(
                    f"{name} of {source.title} has sha256 {found}, but {sha256} is expected. The"
                    " file was changed at its source or altered on the way, and was not kept. Try"
                    " again; if it stays so, check the sha256 in the manifest and whom you"
                    " download from."
                )
        Receipt(source.title, files).write(stage)


def _take_back(home: Path, stage: Path, damage: Mapping[str, str] | None) -> None:
    """Make a damaged artifact a download under way that lacks the damaged files."""
    if not home.exists():
        return
    for name, reason in (damage or {}).items():
        log.warning("%s is damaged: %s. It is fetched again.", home / name, reason)
        (home / name).unlink(missing_ok=True)
    shutil.rmtree(stage, ignore_errors=True)
    os.rename(home, stage)


def _directory_name(uri: str, title: str) -> str:
    """Readable, and different for different URIs."""
    readable = re.sub(r"[^\w.-]+", "-", title.partition("://")[2])[:80]
    return f"{readable}-{hashlib.sha256(uri.encode()).hexdigest()[:8]}"
