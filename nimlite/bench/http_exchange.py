"""One HTTP request over a connection of its own, by a client that may behave badly."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

_READ_BYTES = 4096


@dataclass(slots=True)
class Answer:
    """As far as it came."""

    status: int = 0
    """0: there was none."""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_complete: bool = False
    """The server says that this was all."""

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[Any]:
        """Of a stream, as JSON; `[DONE]` as that text."""
        lines = [line[6:] for line in self.body.split(b"\n") if line.startswith(b"data: ")]
        return ["[DONE]" if line == b"[DONE]" else json.loads(line) for line in lines]


def post(path: str, body: bytes | dict[str, Any], **headers: str) -> bytes:
    """A request as it goes over the wire."""
    return _request(
        "POST", path, json.dumps(body).encode() if isinstance(body, dict) else body, headers
    )


def get(path: str, method: str = "GET") -> bytes:
    return _request(method, path, b"", {})


def _request(method: str, path: str, body: bytes, headers: dict[str, str]) -> bytes:
    lines = (
        f"{method} {path} HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@contextlib.asynccontextmanager
async def connection(
    port: int,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """To this machine. Whatever the block does, it is closed without a farewell."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=_READ_BYTES)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def ask(
    port: int, request: bytes, *, pause_s: float = 0.0, hang_up_after_s: float | None = None
) -> Answer:
    """`pause_s`: before each read. `hang_up_after_s`: leave then, with what has come.

    Raises ConnectionError where the connection breaks off.
    """
    answer = Answer()
    async with connection(port) as (reader, writer):
        writer.write(request)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(hang_up_after_s):
                await _read(reader, answer, pause_s)
    return answer


async def _read(reader: asyncio.StreamReader, answer: Answer, pause_s: float) -> None:
    received = bytearray()
    while data := await reader.read(_READ_BYTES):
        received += data
        if pause_s:
            await asyncio.sleep(pause_s)
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    if not head:
        return
    first, *lines = head.decode("latin-1").split("\r\n")
    answer.status = int(first.split()[1])
    answer.headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
    if answer.headers.get("transfer-encoding") == "chunked":
        answer.body, answer.is_complete = _joined(body)
    else:
        answer.body = body
        answer.is_complete = len(body) == int(answer.headers.get("content-length", 0))


def _joined(body: bytes) -> tuple[bytes, bool]:
    """What `chunked` has cut up, and whether its end has come."""
    parts: list[bytes] = []
    while (end := body.find(b"\r\n")) >= 0:
        size = int(body[:end], 16)
        if not size:
            return b"".join(parts), True
        parts.append(body[end + 2 : end + 2 + size])
        body = body[end + 4 + size :]
    return b"".join(parts), False
