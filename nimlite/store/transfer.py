"""One file over HTTP, by several connections at once, each of which goes on where it broke off.

<name>.part     its bytes, each in its place
<name>.ranges   how far each connection came
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import requests

from nimlite.observe.progress import Task
from nimlite.redaction import public
from nimlite.store.disk import require_space

log = logging.getLogger(__name__)

_TIMEOUT_S = (10, 60)
_BLOCK_BYTES = 1 << 16
"""A broken connection loses the block under way."""
_NOTED_BYTES = 4 << 20
"""A killed process loses at most so much a connection."""
LEAST_RANGE_BYTES = 32 << 20
"""Less does not pay for a connection of its own."""
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


@dataclass(slots=True)
class _Range:
    """Bytes `begin` to `end` of the file, fetched up to `reached`; without `end`, all there are."""

    begin: int
    reached: int
    end: int | None


@dataclass(slots=True, kw_only=True)
class _State:
    """What is known of a file under way. `tag` tells whether the server still has the same one."""

    tag: str | None = None
    size: int | None = None
    ranges: list[_Range] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Bytes."""
        return sum(one.reached - one.begin for one in self.ranges)

    @property
    def unfinished(self) -> list[_Range]:
        return [one for one in self.ranges if one.reached != one.end]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """The file at `url` to `target`."""

    url: str
    target: Path
    headers: Mapping[str, str] = field(default_factory=dict)
    num_connections: int = 1
    retry_delays_s: tuple[float, ...] = (1, 2, 4, 8)
    """Before each retry; one that fetches something is followed by as many again."""

    def run(self, begin: Callable[[int | None], Task]) -> None:
        """Fetch it, unless it is there. `begin` is called once, with the size in bytes, or None
        where the server does not tell.

        Raises requests.RequestException, and ArtifactError for a disk without room.
        """
        if not self.target.exists():
            self._fetch(_UnderWay(self, begin))
        _forget(self.target)

    def _fetch(self, under_way: "_UnderWay") -> None:
        delays_s = iter(self.retry_delays_s)
        while True:
            before = under_way.done
            try:
                under_way.attempt()
                break
            except requests.RequestException as error:
                if under_way.done > before:
                    delays_s = iter(self.retry_delays_s)
                delay_s = next(delays_s, None)
                if delay_s is None or not _is_transient(error):
                    raise
                reason = type(error).__name__
                log.warning("%s: %s; trying again in %g s.", public(self.url), reason, delay_s)
                time.sleep(delay_s)
        under_way.part.rename(self.target)


class _UnderWay:
    """A transfer between its attempts, and while several threads are at one."""

    def __init__(self, transfer: Transfer, begin: Callable[[int | None], Task]) -> None:
        self.part = _beside(transfer.target, ".part")
        self._transfer = transfer
        self._begin = begin
        self._task: Task | None = None
        self._told = 0
        self._mutex = threading.Lock()
        self._state = self._read()

    @property
    def done(self) -> int:
        """Bytes."""
        return self._state.done

    def attempt(self) -> None:
        """Fetch what is missing. Where one connection breaks, the others go on before it raises
        requests.RequestException."""
        if self._state.tag is None:  # no telling whether a later answer continues an earlier one
            self._state = _State()
        if self._state.ranges and not self._state.unfinished:
            return
        lead = next(iter(self._state.unfinished), None)
        with self._get(lead) as response:
            if response.status_code == 416:
                self._state = _State()
                raise requests.ConnectionError("what is on the disk is not a part of that file")
            response.raise_for_status()
            if lead is None or response.status_code != 206:
                lead = self._start_over(response)
            if self._task is None:
                self._task = self._begin(self._state.size)
            others = [one for one in self._state.unfinished if one is not lead]
            with ThreadPoolExecutor(max(1, len(others))) as threads:
                running = [threads.submit(self._fetch, one) for one in others]
                self._receive(response, lead)
                for each in running:
                    each.result()

    def _get(self, one: _Range | None) -> requests.Response:
        headers = {"Accept-Encoding": "identity", **self._transfer.headers}
        if one is not None:
            # If-Range: the server sends the whole file where it is no longer the one we have.
            last = "" if one.end in (None, self._state.size) else f"{(one.end or 0) - 1}"
            headers |= {"Range": f"bytes={one.reached}-{last}", "If-Range": self._state.tag or ""}
        return requests.get(self._transfer.url, headers=headers, stream=True, timeout=_TIMEOUT_S)

    def _start_over(self, response: requests.Response) -> _Range:
        """All of the file, in ranges, of which `response` brings the first."""
        length = response.headers.get("Content-Length")
        size = int(length) if length else None
        tag = response.headers.get("ETag", response.headers.get("Last-Modified"))
        require_space(self.part.parent, size or 0, public(self._transfer.url))
        count = 1
        if size and tag and response.headers.get("Accept-Ranges") == "bytes":
            count = max(1, min(self._transfer.num_connections, size // LEAST_RANGE_BYTES))
        edges = [(size or 0) * number // count for number in range(count)]
        ranges = [_Range(b, b, e) for b, e in zip(edges, [*edges[1:], size], strict=True)]
        self.part.write_bytes(b"")
        self._state = _State(tag=tag, size=size, ranges=ranges)
        self._note()
        return ranges[0]

    def _fetch(self, one: _Range) -> None:
        with self._get(one) as response:
            response.raise_for_status()
            if response.status_code != 206:
                raise requests.ConnectionError("the file has changed meanwhile")
            self._receive(response, one)

    def _receive(self, response: requests.Response, one: _Range) -> None:
        noted = one.reached
        try:
            with self.part.open("r+b", buffering=0) as file:
                file.seek(one.reached)
                for block in response.iter_content(_BLOCK_BYTES):
                    left = memoryview(block if one.end is None else block[: one.end - one.reached])
                    while left:
                        written = file.write(left)
                        left = left[written:]
                        self._advance(one, written)
                    if one.reached - noted >= _NOTED_BYTES:
                        self._note()
                        noted = one.reached
                    if one.reached == one.end:
                        return
            if one.end is None:
                one.end = one.reached
            if one.reached < one.end:
                raise requests.ConnectionError("the connection ended early")
        finally:
            self._note()

    def _advance(self, one: _Range, num_bytes: int) -> None:
        with self._mutex:
            one.reached += num_bytes
            done = self._state.done
            if self._task is not None and done > self._told:
                self._task.advance(done - self._told)
                self._told = done

    def _note(self) -> None:
        with self._mutex:
            written = _beside(self._transfer.target, ".ranges.new")
            written.write_text(json.dumps(asdict(self._state)))
            written.replace(_beside(self._transfer.target, ".ranges"))

    def _read(self) -> _State:
        """What an earlier process left, if it can be gone on from."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            data = json.loads(_beside(self._transfer.target, ".ranges").read_text())
            ranges = [_Range(**one) for one in data.pop("ranges")]
            if self.part.stat().st_size >= max(one.reached for one in ranges if one.reached):
                return _State(**data, ranges=ranges)
        return _State()


def _beside(target: Path, ending: str) -> Path:
    return target.with_name(f"{target.name}{ending}")


def _forget(target: Path) -> None:
    for ending in (".ranges", ".ranges.new"):
        _beside(target, ending).unlink(missing_ok=True)


def _is_transient(error: requests.RequestException) -> bool:
    if error.response is not None:
        return error.response.status_code in _TRANSIENT
    retried = requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError
    return isinstance(error, retried)
