"""A server under test: a process that is started, watched and ended."""

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from nimlite.bench.client import Target
from nimlite.errors import BenchmarkError

_START_S = 600
_POLL_S = 0.02
_STOP_S = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCommand:
    """How one system is started. `{port}` in the arguments becomes a free port."""

    system: str
    variant: str
    arguments: tuple[str, ...]
    model: str
    """Its name in the API."""
    ready_path: str
    """Answers 200 once requests are served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What it takes to have a system running."""

    system: str
    variant: str
    start_s: float
    """From the start of the process until it is ready, with everything in its cache."""
    ready_rss: int
    """Resident bytes of its processes when it is ready."""
    peak_rss: int
    """The most that they ever had, each process by itself."""


class Server:
    """Running and ready. Its processes are the one that was started and all below it."""

    def __init__(self, command: ServerCommand, port: int, process: subprocess.Popen[bytes]) -> None:
        self.target = Target(port=port, model=command.model)
        self.start_s = 0.0
        self._command = command
        self._process = process
        self._ready_rss = 0

    def wait_until_ready(self, log: IO[bytes]) -> None:
        """Raises BenchmarkError, with the end of what it wrote, where it ends or takes too long."""
        started = time.monotonic()
        while not _answers(self.target, self._command.ready_path):
            self.start_s = time.monotonic() - started
            if self._process.poll() is not None or self.start_s > _START_S:
                log.seek(0)
                tail = log.read().decode(errors="replace")[-1500:]
                name = f"{self._command.system} {self._command.variant}"
                raise BenchmarkError(f"{name} did not become ready. It ended with:\n{tail}")
            time.sleep(_POLL_S)
        self.start_s = time.monotonic() - started
        self._ready_rss = memory_of(self._process.pid, "VmRSS")

    @property
    def pid(self) -> int:
        return self._process.pid

    def footprint(self) -> Footprint:
        """Of everything up to now."""
        return Footprint(
            system=self._command.system,
            variant=self._command.variant,
            start_s=self.start_s,
            ready_rss=self._ready_rss,
            # the kernel keeps its high-water mark a few pages behind what it has counted
            peak_rss=max(self._ready_rss, memory_of(self._process.pid, "VmHWM")),
        )


@contextlib.contextmanager
def running(command: ServerCommand, log_file: Path | None = None) -> Iterator[Server]:
    """Start the server, wait until it is ready, and end it with the block. `log_file`: where its
    output stays."""
    port = _free_port()
    arguments = [argument.replace("{port}", str(port)) for argument in command.arguments]
    with log_file.open("w+b") if log_file else tempfile.TemporaryFile() as log:
        # A session of its own, so that the whole tree can be ended.
        process = subprocess.Popen(
            arguments, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            server = Server(command, port, process)
            server.wait_until_ready(log)
            yield server
        finally:
            _end(process)


def memory_of(pid: int, field: str, *, descendants: bool = True) -> int:
    """Bytes of `field` in /proc/PID/status, summed over a process and its descendants."""
    return sum(_status_bytes(member, field) for member in (tree(pid) if descendants else [pid]))


def tree(root: int) -> list[int]:
    """A process and its descendants, in the order of their generations."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (status := _read_status(int(entry.name))):
            parents[int(entry.name)] = int(status["PPid"])
    tree = [root]
    for pid in tree:
        tree += [child for child, parent in parents.items() if parent == pid]
    return tree


def _status_bytes(pid: int, field: str) -> int:
    return int(_read_status(pid).get(field, "0 kB").removesuffix(" kB")) * 1024


def _read_status(pid: int) -> Mapping[str, str]:
    """Empty where the process has gone."""
    with contextlib.suppress(OSError):
        return dict(re.findall(r"(\w+):\s*(.*)", Path(f"/proc/{pid}/status").read_text()))
    return {}


def _answers(target: Target, path: str) -> bool:
    connection = http.client.HTTPConnection(target.host, target.port, timeout=_STOP_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
