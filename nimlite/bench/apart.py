"""Work on a device that may end its process: item by item, in processes beside this one.

After an error of the device a process can do nothing more there, so each failure ends its worker,
and the items that are left go on in a new one. Between failures a worker goes on: what it has
imported and compiled serves the next item.
"""

import multiprocessing
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

_CONTEXT = multiprocessing.get_context("spawn")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Done(Generic[R]):
    """What one item came to."""

    name: str
    result: R | None
    failure: str
    """Why there is no result; empty where there is one."""
    seconds: float


def run_apart(
    function: Callable[[str], R], names: Iterable[str], *, seconds: float, num_processes: int = 1
) -> Iterator[Done[R]]:
    """Each name's result as it comes. `function` must be importable; `seconds`: what one item may
    take, its worker's start included."""
    todo: SimpleQueue[str] = SimpleQueue()
    done: SimpleQueue[Done[R]] = SimpleQueue()
    count = 0
    for name in names:
        todo.put(name)
        count += 1

    def serve() -> None:
        worker = _Worker(function)
        while True:
            try:
                name = todo.get_nowait()
            except Empty:
                break
            started = time.monotonic()
            result, failure = worker.ask(name, seconds)
            done.put(Done(name, result, failure, time.monotonic() - started))
        worker.end()

    for _ in range(min(num_processes, count)):
        threading.Thread(target=serve, daemon=True).start()
    for _ in range(count):
        yield done.get()


class _Worker(Generic[R]):
    """A process, started when it is first asked and after each failure."""

    def __init__(self, function: Callable[[str], R]) -> None:
        self._function = function
        self._process: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None

    def ask(self, name: str, seconds: float) -> tuple[R | None, str]:
        """The result, or why there is none."""
        if self._connection is None:
            self._connection, theirs = _CONTEXT.Pipe()
            self._process = _CONTEXT.Process(
                target=_serve, args=(theirs, self._function), daemon=True
            )
            self._process.start()
            theirs.close()
        try:
            self._connection.send(name)
            if not self._connection.poll(seconds):
                self.end()
                return None, f"took longer than {seconds:.0f} s"
            result, failure = self._connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            assert self._process is not None
            self._process.join()
            result, failure = None, f"its process ended with {self._process.exitcode}"
        if failure:
            self.end()
        return result, failure

    def end(self) -> None:
        if self._process is not None and self._connection is not None:
            self._connection.close()
            self._process.kill()
            self._process.join()
            self._process = self._connection = None


def _serve(connection: Connection, function: Callable[[str], object]) -> None:
    while True:
        try:
            name = connection.recv()
        except EOFError:
            return
        try:
            result = function(name)
        except Exception as error:  # noqa: BLE001 - the edge: the parent goes on
            traceback.print_exc()
            connection.send((None, f"{type(error).__name__}: {error}".splitlines()[0]))
            return
        connection.send((result, ""))
