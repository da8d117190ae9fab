"""Requests as no good client sends them, as raw bytes over sockets: torn, slow, half closed, huge,
mutated. What the server must do with each is in `problem`."""

import contextlib
import json
import random
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any

_PATIENCE_S = 60
_PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/chat/completions/render",
    "/tokenize",
    "/detokenize",
)
_BODIES: tuple[dict[str, Any], ...] = (
    {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3},
    {"model": "tiny", "prompt": "hi", "max_tokens": 3, "stream": True, "n": 2, "logprobs": 2},
    {"model": "tiny", "input": [{"role": "user", "content": "hi"}], "max_output_tokens": 3},
    {"model": "tiny", "prompt": [1, 2, 3], "max_tokens": 2, "stop": ["a", "b"], "seed": 7},
    {"model": "tiny", "tokens": [1, 2], "guided_regex": "[a-z]{2}", "logit_bias": {"3": 9}},
)
_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**63,
    -(2**70),
    1e308,
    0.5,
    "",
    "tiny",
    "\x00",
    "\ud800",
    "😀" * 50,
    "x" * 70_000,
    [],
    [[]],
    {},
    {"a": {"b": []}},
    [0] * 3000,
)
Parts = list[bytes]


def problem(port: int, rng: random.Random) -> str | None:
    """Send one; None where all is well: an answer that is no 5xx, or an end of the connection."""
    make = rng.choice(_MOVES)
    parts, ending = make(rng)
    try:
        answer = _exchange(port, parts, ending)
    except TimeoutError:
        return f"{make.__name__}: the server neither answered nor closed: {b''.join(parts)!r:.300}"
    final = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    if not final or (final.startswith(b"HTTP/1.1 ") and final[9:10] in b"234"):
        return None
    return f"{make.__name__}: {answer!r:.300} to {b''.join(parts)!r:.300}"


def _exchange(port: int, parts: Parts, ending: str) -> bytes:
    with (
        contextlib.suppress(ConnectionError),
        socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_S) as connection,
    ):
        for part in parts:
            connection.sendall(part)
        if ending == "reset":
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        if ending == "half":
            with contextlib.suppress(OSError):  # the server has closed already
                connection.shutdown(socket.SHUT_WR)
        if ending in ("half", "wait"):
            return b"".join(iter(lambda: connection.recv(65536), b""))
    return b""


def _head(path: str, *headers: str, method: str = "POST") -> bytes:
    lines = (f"{method} {path} HTTP/1.1", "Host: here", "Connection: close", *headers)
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n"


def _whole(path: str, body: bytes, *headers: str) -> bytes:
    length = f"Content-Length: {len(body)}"
    return _head(path, "Content-Type: application/json", length, *headers) + b"\r\n" + body


def _good(rng: random.Random) -> bytes:
    return _whole(rng.choice(_PATHS), json.dumps(rng.choice(_BODIES)).encode())


def _cut(rng: random.Random, data: bytes, most: int = 12) -> Parts:
    ends = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(most)))
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]


def _ending(rng: random.Random) -> str:
    return rng.choice(["wait", "half", "reset", "leave"])


def _torn(rng: random.Random) -> tuple[Parts, str]:
    return _cut(rng, _good(rng)), _ending(rng)


def _unfinished(rng: random.Random) -> tuple[Parts, str]:
    data = _good(rng)
    return [data[: rng.randrange(len(data))]], rng.choice(["half", "reset", "leave"])


def _slow(rng: random.Random) -> tuple[Parts, str]:
    """A head that never ends."""
    return [b"GET / HTTP/1.1\r\n", *(b"X: %d\r\n" % n for n in range(rng.randrange(5)))], "wait"


def _huge(rng: random.Random) -> tuple[Parts, str]:
    size = rng.choice([60_000, 66_000, 200_000])
    header = rng.choice(["X: " + "x" * size, *["\r\n".join(["a: b"] * (size // 6))]])
    path = rng.choice(["/", "/" + "p" * size])
    return [_head(path, header, method="GET"), b"\r\n"], _ending(rng)


def _garbage(rng: random.Random) -> tuple[Parts, str]:
    return [rng.randbytes(rng.randrange(1, 400)) + b"\r\n\r\n"], "half"


def _flipped(rng: random.Random) -> tuple[Parts, str]:
    data = bytearray(_good(rng))
    for _ in range(rng.randrange(1, 6)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return [bytes(data)], "half"


def _lengths(rng: random.Random) -> tuple[Parts, str]:
    """Lengths that contradict each other, or what comes."""
    body = json.dumps(rng.choice(_BODIES)).encode()
    given = ("0", "-1", "1e3", str(len(body) + 9), "9" * 30, "5, 5", "", "33554433")
    headers = [f"Content-Length: {rng.choice(given)}" for _ in range(rng.randrange(1, 3))]
    if rng.random() < 0.4:
        headers.append(rng.choice(["Transfer-Encoding: chunked", "Transfer-Encoding: x, y"]))
    return [_head(rng.choice(_PATHS), *headers) + b"\r\n" + body], "half"


def _chunked(rng: random.Random) -> tuple[Parts, str]:
    body = json.dumps(rng.choice(_BODIES)).encode()
    parts = _cut(rng, body, 5)
    sizes = [b"%x" % len(part) for part in parts]
    if rng.random() < 0.5:
        sizes[rng.randrange(len(sizes))] = rng.choice([b"ffffffffffffffffff", b"-1", b"zz", b""])
    data = b"".join(b"%b\r\n%b\r\n" % pair for pair in zip(sizes, parts, strict=True) if pair[1])
    kind = "Content-Type: application/json"
    head = _head(rng.choice(_PATHS), kind, "Transfer-Encoding: chunked")
    end = rng.choice([b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b""])
    return _cut(rng, head + b"\r\n" + data + end), "half"


def _pipelined(rng: random.Random) -> tuple[Parts, str]:
    alive = _good(rng).replace(b"Connection: close\r\n", b"")
    return _cut(rng, alive * rng.randrange(1, 4) + _good(rng)), rng.choice(["wait", "reset"])


def _mutated(rng: random.Random) -> tuple[Parts, str]:
    """A body whose values are others."""
    body = json.loads(json.dumps(rng.choice(_BODIES)))
    for _ in range(rng.randrange(1, 4)):
        name = rng.choice([*body, "temperature", "tools", "response_format", "priority", "x"])
        body[name] = rng.choice(_VALUES)
    return [_whole(rng.choice(_PATHS), json.dumps(body).encode())], _ending(rng)


def _no_json(rng: random.Random) -> tuple[Parts, str]:
    depth = rng.choice([100, 5000])
    bodies = (b"[" * depth, b'{"a":' * depth, b"\xff\xfe", b"", b"null", b"NaN", b'"\\ud800"')
    return [_whole(rng.choice(_PATHS), rng.choice(bodies))], "wait"


def _headers(rng: random.Random) -> tuple[Parts, str]:
    odd = ("", "\xff", "0", "-1", "x" * 5000, "a b", "1e999", "gzip", "100-continue")
    names = ("X-Request-Id", "X-Request-Timeout", "Authorization", "Expect", "Content-Encoding")
    given = [f"{name}: {rng.choice(odd)}" for name in rng.sample(names, 2)]
    return [_whole(rng.choice(_PATHS), json.dumps(_BODIES[0]).encode(), *given)], _ending(rng)


def _paths(rng: random.Random) -> tuple[Parts, str]:
    method = rng.choice(["GET", "DELETE", "PUT", "HEAD", "OPTIONS", "BREW"])
    tails = ("..%2f..%2fetc/passwd", "%00", "%ff", "a" * 900, "\xe9", "?" * 9, "cancel")
    prefixes = ("/", "/v1/models/", "/v1/responses/", "/v1/requests/", "/page/")
    path = rng.choice(prefixes) + rng.choice(tails)
    return [_head(path, method=method) + b"\r\n"], "half"


_MOVES: Sequence[Callable[[random.Random], tuple[Parts, str]]] = (
    _torn,
    _unfinished,
    _slow,
    _huge,
    _garbage,
    _flipped,
    _lengths,
    _chunked,
    _pipelined,
    _mutated,
    _no_json,
    _headers,
    _paths,
)
