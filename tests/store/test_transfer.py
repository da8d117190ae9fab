from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from fakes.file_server import FileServer, serve

from nimlite.store import transfer as module
from nimlite.store.transfer import Transfer

BLOCK = 65_536
CONTENT = bytes(range(256)) * 4000
PART = len(CONTENT) // 4


class Meter:
    """A task that counts."""

    def __init__(self) -> None:
        self.done = 0.0
        self.sizes: list[int | None] = []

    def begin(self, size: int | None) -> "Meter":
        self.sizes.append(size)
        return self

    def advance(self, amount: float) -> None:
        assert amount > 0
        self.done += amount


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serve(CONTENT) as server:
        yield server


@pytest.fixture
def transfer(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Transfer:
    """By four connections, which small files don't get otherwise."""
    monkeypatch.setattr(module, "LEAST_RANGE_BYTES", PART)
    return Transfer(
        url=f"{server.url}/tiny.gguf",
        target=tmp_path / "tiny.gguf",
        num_connections=6,
        retry_delays_s=(0, 0),
    )


def test_several_connections_fetch_a_part_each(server: FileServer, transfer: Transfer) -> None:
    meter = Meter()
    transfer.run(meter.begin)
    assert transfer.target.read_bytes() == CONTENT
    assert [path.name for path in transfer.target.parent.iterdir()] == ["tiny.gguf"]
    parts = [f"bytes={PART}-{2 * PART - 1}", f"bytes={2 * PART}-{3 * PART - 1}"]
    assert sorted(server.requests) == ["", *parts, f"bytes={3 * PART}-"]
    assert (meter.sizes, meter.done) == ([len(CONTENT)], len(CONTENT))
    transfer.run(meter.begin)
    assert len(server.requests) == 4 and len(meter.sizes) == 1


def test_each_goes_on_where_it_broke_off(server: FileServer, transfer: Transfer) -> None:
    server.break_after = [BLOCK] * 7
    meter = Meter()
    transfer.run(meter.begin)
    assert transfer.target.read_bytes() == CONTENT
    assert meter.done == len(CONTENT)
    assert len(server.requests) >= 8


def test_the_next_start_goes_on_too(server: FileServer, transfer: Transfer) -> None:
    server.break_after = [BLOCK] * 4 + [0] * 12
    with pytest.raises(requests.RequestException):
        transfer.run(Meter().begin)
    server.requests.clear()
    server.break_after = []
    meter = Meter()
    transfer.run(meter.begin)
    assert transfer.target.read_bytes() == CONTENT and meter.done == len(CONTENT)
    begins = sorted(int(wanted[6:].split("-")[0]) for wanted in server.requests)
    assert begins == [number * PART + BLOCK for number in range(4)]


def test_a_file_that_changes_meanwhile_is_fetched_whole(
    server: FileServer, transfer: Transfer
) -> None:
    server.break_after = [BLOCK] * 4 + [0] * 12
    with pytest.raises(requests.RequestException):
        transfer.run(Meter().begin)
    server.break_after = []
    server.content, server.etag = CONTENT[::-1], '"two"'
    transfer.run(Meter().begin)
    assert transfer.target.read_bytes() == CONTENT[::-1]


def test_a_server_without_ranges(server: FileServer, transfer: Transfer) -> None:
    server.has_ranges = False
    transfer.run(Meter().begin)
    assert transfer.target.read_bytes() == CONTENT and server.requests == [""]


def test_as_long_as_it_gets_on_it_is_tried_again(server: FileServer, transfer: Transfer) -> None:
    server.has_ranges = False
    server.break_after = [BLOCK, 0, BLOCK, 0, BLOCK, 0, BLOCK, 0]
    transfer.run(Meter().begin)
    assert transfer.target.read_bytes() == CONTENT
    server.statuses = [404]
    transfer.target.unlink()
    with pytest.raises(requests.HTTPError):
        transfer.run(Meter().begin)
    assert server.requests[-1] == "" and len(server.requests) == 10
