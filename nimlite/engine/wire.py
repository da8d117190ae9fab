"""What a process with an engine in it and its parent say to each other, and how: pickles, each
behind its length, over a pair of connected sockets."""

import logging
import pickle
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nimlite.engine.limits import RequestLimits
from nimlite.engine.request import Delta, EngineStats, Request
from nimlite.observe.progress import Progress

if TYPE_CHECKING:
    from nimlite.engine.engine import Engine

_LENGTH = struct.Struct("<Q")
_READ_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a recipe makes: an engine, and facts about it that its parent asked for."""

    engine: "Engine"
    facts: object = None
    """Plain data."""


Recipe = Callable[[Progress], Prepared]
"""Makes an engine. It is pickled: a function of a module, or a `partial` of one and plain data."""


@dataclass(frozen=True, slots=True)
class Launch:
    """The first message to the child."""

    recipe: Recipe
    log_levels: dict[str, int]
    """By logger; "" is the root."""


@dataclass(frozen=True, slots=True)
class Submit:
    """To the child."""

    requests: tuple[Request, ...]


@dataclass(frozen=True, slots=True)
class Abort:
    """To the child."""

    request_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ping:
    """To the child: say something, once the step in flight has ended."""


@dataclass(frozen=True, slots=True)
class Log:
    """From the child: a record, with text instead of objects."""

    record: logging.LogRecord


@dataclass(frozen=True, slots=True)
class TaskBegan:
    """From the child, as it starts: a `Progress` task."""

    id: int
    title: str
    total: float | None
    unit: str


@dataclass(frozen=True, slots=True)
class TaskAdvanced:
    """More of it is done."""

    id: int
    amount: float


@dataclass(frozen=True, slots=True)
class TaskEnded:
    """It is done, or has failed."""

    id: int
    failed: bool


@dataclass(frozen=True, slots=True)
class Failed:
    """From the child: there will be no engine."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Ready:
    """From the child: requests may come."""

    limits: RequestLimits
    stats: EngineStats
    facts: object


@dataclass(frozen=True, slots=True)
class Step:
    """From the child, once a step: the deltas, packed. Most are of a token and no more: of these
    only two columns travel."""

    stats: tuple[int, ...]
    request_ids: tuple[str, ...]
    token_ids: tuple[int, ...]
    others: tuple[tuple[Any, ...], ...]
    """Deltas that say more, as plain tuples."""

    @classmethod
    def pack(cls, deltas: Sequence[Delta], stats: EngineStats) -> "Step":
        """A request has at most one delta in a step; their order does not matter."""
        request_ids, token_ids, others = [], [], []
        for delta in deltas:
            if len(delta.token_ids) == 1 and delta[2:] == _PLAIN_REST:
                request_ids.append(delta.request_id)
                token_ids.append(delta.token_ids[0])
            else:
                others.append(tuple(delta))
        return cls(
            tuple(getattr(stats, name) for name in _STATS),
            tuple(request_ids),
            tuple(token_ids),
            tuple(others),
        )

    def deltas(self) -> list[Delta]:
        pairs = zip(self.request_ids, self.token_ids, strict=True)
        plain = [Delta(request_id, (token_id,)) for request_id, token_id in pairs]
        return plain + [Delta(*other) for other in self.others]

    def engine_stats(self) -> EngineStats:
        return EngineStats(**dict(zip(_STATS, self.stats, strict=True)))


_STATS = tuple(EngineStats.__dataclass_fields__)
_PLAIN_REST = Delta("", (0,))[2:]


def encode(message: object) -> bytes:
    body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


class Decoder:
    """Messages out of a stream of bytes that comes in any pieces."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """The messages that are complete by now."""
        self._buffer += data
        start = 0
        try:
            while len(self._buffer) - start >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(self._buffer, start)
                end = start + _LENGTH.size + length
                if len(self._buffer) < end:
                    break
                body = bytes(self._buffer[start + _LENGTH.size : end])
                start = end
                yield pickle.loads(body)
        finally:
            del self._buffer[:start]


def read_one(connection: socket.socket) -> Any:
    """The first message, and not a byte behind it. Raises ConnectionError where none comes."""

    def exactly(count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = connection.recv(count - len(data))
            if not piece:
                raise ConnectionError("the other end has gone")
            data += piece
        return bytes(data)

    (length,) = _LENGTH.unpack(exactly(_LENGTH.size))
    return pickle.loads(exactly(length))


class Channel:
    """One end, for whoever may wait. `send` may be called from any thread."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._lock = threading.Lock()

    def send(self, message: object) -> None:
        """Raises OSError where the other end has gone."""
        data = encode(message)
        with self._lock:
            self.connection.sendall(data)

    def messages(self) -> Iterable[Any]:
        """Until the other end has gone. Raises TimeoutError after the connection's time-out."""
        decoder = Decoder()
        while data := self.connection.recv(_READ_BYTES):
            yield from decoder.feed(data)
