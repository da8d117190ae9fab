import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.file_server import FileServer, serve

from nimlite.errors import ArtifactError, DownloadError, UnreachableError
from nimlite.observe.progress import Progress
from nimlite.store.http import HTTPSource

BLOCK = 65_536
CONTENT = bytes(range(256)) * 4000


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serve(CONTENT) as server:
        yield server


@pytest.fixture
def source(server: FileServer) -> HTTPSource:
    return HTTPSource(f"{server.url}/models/tiny.gguf", retry_delays_s=(0, 0))


def test_a_broken_download_goes_on_where_it_ended(
    server: FileServer, source: HTTPSource, tmp_path: Path, progress: Progress
) -> None:
    server.break_after = [4 * BLOCK, 2 * BLOCK]
    source.download(tmp_path, None, progress)
    assert (tmp_path / "tiny.gguf").read_bytes() == CONTENT
    assert server.requests == ["", f"bytes={4 * BLOCK}-", f"bytes={6 * BLOCK}-"]
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.gguf"]


def test_the_next_start_goes_on_too(
    server: FileServer, source: HTTPSource, tmp_path: Path, progress: Progress
) -> None:
    server.break_after = [BLOCK, 0, 0]
    with pytest.raises(UnreachableError, match="next start goes on where this one ended"):
        source.download(tmp_path, None, progress)
    source.download(tmp_path, None, progress)
    assert (tmp_path / "tiny.gguf").read_bytes() == CONTENT
    assert server.requests[-1] == f"bytes={BLOCK}-"


def test_a_file_that_changed_meanwhile_is_fetched_whole(
    server: FileServer, source: HTTPSource, tmp_path: Path, progress: Progress
) -> None:
    server.break_after = [BLOCK, 0, 0]
    with pytest.raises(DownloadError):
        source.download(tmp_path, None, progress)
    server.content, server.etag = CONTENT[::-1], '"two"'
    source.download(tmp_path, None, progress)
    assert (tmp_path / "tiny.gguf").read_bytes() == CONTENT[::-1]


def test_a_part_that_the_server_does_not_have_is_thrown_away(
    server: FileServer, source: HTTPSource, tmp_path: Path, progress: Progress
) -> None:
    server.break_after = [BLOCK, 0, 0]
    with pytest.raises(DownloadError):
        source.download(tmp_path, None, progress)
    server.statuses = [416]
    source.download(tmp_path, None, progress)
    assert (tmp_path / "tiny.gguf").read_bytes() == CONTENT
    assert server.requests[-2:] == [f"bytes={BLOCK}-", ""]


def test_what_an_earlier_process_left_may_be_damaged(
    server: FileServer, source: HTTPSource, tmp_path: Path, progress: Progress
) -> None:
    (tmp_path / "tiny.gguf.part").write_bytes(b"short")
    for note in ("{", '{"tag": "x", "size": 9, "ranges": [{"begin": 0, "reached": 9, "end": 9}]}'):
        (tmp_path / "tiny.gguf.ranges").write_text(note)
        source.download(tmp_path, None, progress)
        assert (tmp_path / "tiny.gguf").read_bytes() == CONTENT
        assert [path.name for path in tmp_path.iterdir()] == ["tiny.gguf"]
        (tmp_path / "tiny.gguf").rename(tmp_path / "tiny.gguf.part")


def test_a_disk_without_room_is_told_before(
    server: FileServer, source: HTTPSource, tmp_path: Path, progress: Progress
) -> None:
    server.length = 10**18
    with pytest.raises(ArtifactError) as error:
        source.download(tmp_path, None, progress)
    assert re.fullmatch(
        rf"{source.title} takes 1,000,000,000,000 MB, and the disk of {tmp_path} has [\d,]+ MB free"
        r"\. Free some space \(`nimlite cache ls` shows what the cache holds, `nimlite cache rm`"
        r" removes it\), or set NIM_CACHE_PATH to a larger disk\.",
        str(error.value),
    )
    assert list(tmp_path.iterdir()) == []


def test_a_failing_server_is_asked_again(
    server: FileServer, source: HTTPSource, tmp_path: Path, progress: Progress
) -> None:
    server.statuses = [503, 429]
    source.download(tmp_path, None, progress)
    assert (tmp_path / "tiny.gguf").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("statuses", "sentence"),
    [
        ([404], r"tiny\.gguf could not be fetched \(HTTP 404\)\. There is no such file"),
        ([403], r"\(HTTP 403\)\. The server wants a login"),
        ([503, 503, 503], r"\(HTTP 503\)\. The server failed: try again later"),
    ],
)
def test_refusals_are_told(
    server: FileServer,
    source: HTTPSource,
    tmp_path: Path,
    progress: Progress,
    statuses: list[int],
    sentence: str,
) -> None:
    server.statuses = statuses
    with pytest.raises(DownloadError, match=sentence):
        source.download(tmp_path, None, progress)


def test_no_server_and_no_secret_in_the_sentence(tmp_path: Path, progress: Progress) -> None:
    source = HTTPSource("http://me:secret@127.0.0.1:1/m.gguf?sig=secret", retry_delays_s=())
    with pytest.raises(DownloadError, match="can't be reached or broke off") as error:
        source.download(tmp_path, None, progress)
    assert "secret" not in str(error.value)
