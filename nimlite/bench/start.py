"""How long a start takes, from the command to the first token over HTTP: with nothing cached, and
again with what the first one left."""

import contextlib
import http.client
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nimlite.bench.client import Target
from nimlite.bench.server import ServerCommand, running
from nimlite.errors import BenchmarkError

_PROMPT = tuple(range(32, 160))
"""Token ids, which every vocabulary has."""
_TABLE = re.compile(r"^ +at +took\n(?:.* s .*\n)*.* s +ready$", re.MULTILINE)
_REQUEST_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One start. All times are seconds from the beginning of the process."""

    cached: bool
    """Whether a start before it had left its engine."""
    ready_s: float
    first_token_s: float
    phases: str
    """As the server has logged them."""

    def json_line(self) -> str:
        """For programs."""
        return json.dumps({"peer": "nimlite", "kind": "start", **asdict(self)})

    def __str__(self) -> str:
        what = "everything cached" if self.cached else "nothing cached"
        return (
            f"{what}: ready after {self.ready_s:.1f} s, first token after"
            f" {self.first_token_s:.1f} s\n{self.phases}"
        )


def measure_starts(
    model: str, flags: Sequence[str] = (), cache: Path | None = None
) -> Iterator[Start]:
    """Serve `model` twice, as a user would start it with `flags`. `cache`: an empty directory;
    default: a temporary one. Raises BenchmarkError for a server that does not start or answer."""
    with contextlib.ExitStack() as stack:
        home = cache or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if home.exists() and any(home.iterdir()):
            raise BenchmarkError(f"{home} is not empty: a start with nothing cached needs it so.")
        for cached in (False, True):
            yield _measure(model, flags, home, cached)


def _measure(model: str, flags: Sequence[str], cache: Path, cached: bool) -> Start:
    serve = (sys.executable, "-m", "nimlite", "serve", model, "--cache-path", str(cache))
    command = ServerCommand(
        system="nimlite",
        variant="start",
        arguments=(*serve, "--port", "{port}", *flags),
        model="",
        ready_path="/v1/health/ready",
    )
    with tempfile.NamedTemporaryFile() as log:
        started = time.monotonic()
        with running(command, Path(log.name)) as server:
            ready_s = time.monotonic() - started
            _first_token(server.target)
            first_token_s = time.monotonic() - started
        found = _TABLE.search(Path(log.name).read_text(errors="replace"))
    return Start(
        cached=cached,
        ready_s=round(ready_s, 2),
        first_token_s=round(first_token_s, 2),
        phases=found[0] if found else "",
    )


def _first_token(target: Target) -> None:
    (model, *_) = _ask(target, "GET", "/v1/models")["data"]
    body = {
        "model": model["id"],
        "prompt": _PROMPT,
        "max_tokens": 1,
        "temperature": 0,
        "ignore_eos": True,
    }
    usage = _ask(target, "POST", "/v1/completions", json.dumps(body))["usage"]
    assert usage["completion_tokens"] == 1


def _ask(target: Target, method: str, path: str, body: str | None = None) -> dict[str, Any]:
    connection = http.client.HTTPConnection(target.host, target.port, timeout=_REQUEST_S)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise BenchmarkError(f"nimlite did not answer {method} {path}: {error!r}") from error
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK:
        raise BenchmarkError(f"nimlite answered {method} {path} with {text[:300]!r}")
    found: dict[str, Any] = json.loads(text)
    return found
