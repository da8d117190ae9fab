"""An engine in a process of its own, seen from its parent.

The child is a fresh interpreter, never a fork: nothing of CUDA may be inherited. The two are joined
by a pair of sockets, and its end is the end of either side: a parent that dies takes the child
along, and a child that dies is noticed at once, whatever killed it.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from nimlite.engine.client import OnDeltas, OnEnd, stopped
from nimlite.engine.limits import RequestLimits
from nimlite.engine.request import Delta, EngineStats, FinishReason, Request
from nimlite.engine.watchdog import Watchdog
from nimlite.engine.wire import (
    Abort,
    Decoder,
    Failed,
    Launch,
    Log,
    Ping,
    Ready,
    Recipe,
    Step,
    Submit,
    TaskAdvanced,
    TaskBegan,
    TaskEnded,
    encode,
)
from nimlite.errors import EngineDeadError, EngineError
from nimlite.observe.progress import Progress, Task

_SILENCE_S = 900.0
"""What a child may take for one piece of its start without a word."""
_HANG_S = 300.0
"""What a step may take: the longest on a slow CPU, and one that compiles on a GPU."""
_STOP_S = 15.0
"""What it may take to end once told to, before it is killed."""
_READ_BYTES = 1 << 16
_ASK_AGAIN = "This answer is lost with it: ask again."
_CHILD = "from nimlite.engine.child import main; main({fd})"


class EngineProcess:
    """An `EngineHost`: started by `launch`, fed from one event loop."""

    def __init__(
        self, process: subprocess.Popen[bytes], connection: socket.socket, hang_s: float
    ) -> None:
        self._process = process
        self._hang_s = hang_s
        self._connection = connection
        self._decoder = Decoder()
        self._outbox = bytearray()
        self._live: set[str] = set()
        self._error: str | None = None
        """Why it has ended: the answer to whoever comes too late."""
        self._on_deltas: OnDeltas = lambda deltas: None
        self._on_end: OnEnd | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watchdog: Watchdog | None = None
        self._ready: Ready
        self.stats = EngineStats()

    @classmethod
    def launch(
        cls,
        recipe: Recipe,
        progress: Progress,
        *,
        silence_s: float = _SILENCE_S,
        hang_s: float = _HANG_S,
    ) -> "EngineProcess":
        """Start the process and wait until its engine is there. What it logs and how it gets on
        appear here, as if it were no other process. One whose engine then does nothing for `hang_s`
        seconds, though asked to, is ended.

        Raises what `recipe` raises where that is a NimliteError, else EngineError; also for a
        process that dies, or says nothing for `silence_s` seconds.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            child = cls(_spawn(theirs.fileno()), ours, hang_s)
        try:
            ours.settimeout(silence_s)
            ours.sendall(encode(Launch(recipe, _log_levels())))
            child._wait_until_ready(progress)
        except BaseException:
            child._kill()
            raise
        return child

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def facts(self) -> Any:
        """What the recipe says about its engine."""
        return self._ready.facts

    @property
    def limits(self) -> RequestLimits:
        return self._ready.limits

    @property
    def is_alive(self) -> bool:
        return self._error is None

    @property
    def outage(self) -> EngineError | None:
        return None if self.is_alive else stopped()

    def start(self, on_deltas: OnDeltas, on_end: OnEnd | None = None) -> None:
        """Must be called in the event loop from which everything else will be, too."""
        self._on_deltas = on_deltas
        self._on_end = on_end
        self._connection.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._connection, self._read)
        self._watchdog = Watchdog(lambda: self._send(Ping()), self._hangs, self._hang_s)
        self._read()  # what came before

    def submit(self, requests: Sequence[Request]) -> None:
        if self._error is not None:
            self._on_deltas([_failed(request.id, self._error) for request in requests])
            return
        self._live.update(request.id for request in requests)
        self._send(Submit(tuple(requests)))

    def abort(self, request_ids: Sequence[str]) -> None:
        self._live.difference_update(request_ids)
        self._send(Abort(tuple(request_ids)))

    def stop(self) -> None:
        if self._error is not None:
            return
        self._end("The server is shutting down.")
        # The child takes the end of what we send as its order, and ends what it sends by ending.
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)
            self._connection.settimeout(_STOP_S)
            while self._connection.recv(_READ_BYTES):
                pass
        self._kill()

    def _wait_until_ready(self, progress: Progress) -> None:
        with _Tasks(progress) as tasks:
            while True:
                try:
                    data = self._connection.recv(_READ_BYTES)
                except TimeoutError:
                    raise EngineError(
                        f"The engine's process said nothing for {self._connection.gettimeout():g} s"
                        f" while it started ({tasks.current}), and was ended."
                    ) from None
                if not data:
                    raise EngineDeadError(f"{self._last_words()} while it started.")
                for message in self._decoder.feed(data):
                    match message:
                        case Ready():
                            self._ready, self.stats = message, message.stats
                            return
                        case Failed(error):
                            raise error
                        case Log(record):
                            _log(record)
                        case _:
                            tasks.apply(message)

    def _read(self) -> None:
        """All that has come, so that a parent that lags gets larger batches and never falls back
        further."""
        deltas: list[Delta] = []
        try:
            while data := self._connection.recv(_READ_BYTES):
                for message in self._decoder.feed(data):
                    match message:
                        case Step():
                            deltas += message.deltas()
                            self.stats = message.engine_stats()
                            if self._watchdog is not None:
                                self._watchdog.heard()
                        case Log(record):
                            _log(record)
            has_ended = True
        except BlockingIOError:
            has_ended = False
        except OSError:
            has_ended = True
        self._live.difference_update(d.request_id for d in deltas if d.finish_reason is not None)
        if deltas:
            self._on_deltas(deltas)
        if has_ended:
            self._give_up(f"{self._last_words()}.")

    def _hangs(self) -> None:
        self._give_up(f"The engine's process did nothing for {self._hang_s:g} s, and was ended.")

    def _give_up(self, reason: str) -> None:
        self._end(f"{reason} {_ASK_AGAIN}")
        self._kill()
        if self._on_end is not None:
            self._on_end(reason)

    def _send(self, message: object) -> None:
        if self._error is not None:
            return
        assert self._loop is not None
        if not self._outbox:  # all of this turn of the event loop goes together
            self._loop.call_soon(self._write)
        self._outbox += encode(message)

    def _write(self) -> None:
        if self._error is not None:
            return
        try:
            sent = self._connection.send(self._outbox)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # it has gone; `_read` will hear of it
        del self._outbox[:sent]
        assert self._loop is not None
        if self._outbox:
            self._loop.add_writer(self._connection, self._write)
        else:
            self._loop.remove_writer(self._connection)

    def _end(self, error: str) -> None:
        self._error = error
        if self._loop is not None:
            self._loop.remove_reader(self._connection)
            self._loop.remove_writer(self._connection)
        if self._watchdog is not None:
            self._watchdog.stop()
        live, self._live = sorted(self._live), set()
        if live:
            self._on_deltas([_failed(request_id, error) for request_id in live])

    def _last_words(self) -> str:
        """Only where the connection has ended, so that the process is about to."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(timeout=1)
            if code < 0:
                return f"The engine's process was ended by {signal.Signals(-code).name}"
            return f"The engine's process ended with exit code {code}"
        return "The engine's process ended"

    def _kill(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()


def _spawn(fd: int) -> subprocess.Popen[bytes]:
    # A group of its own: Ctrl-C is for the parent, which decides how all ends.
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD.format(fd=fd)],
        stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        pass_fds=(fd,),
        process_group=0,
    )


def _log_levels() -> dict[str, int]:
    loggers = {"": logging.root} | {
        name: logger
        for name, logger in logging.root.manager.loggerDict.items()
        if isinstance(logger, logging.Logger) and logger.level
    }
    return {name: logger.level for name, logger in loggers.items()}


def _log(record: logging.LogRecord) -> None:
    logging.getLogger(record.name).handle(record)


def _failed(request_id: str, error: str) -> Delta:
    return Delta(request_id=request_id, finish_reason=FinishReason.ERROR, error=error)


class _Tasks:
    """The child's tasks, shown where ours are."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._open: dict[int, tuple[AbstractContextManager[Task], Task]] = {}
        self.current = "before its first task"

    def __enter__(self) -> "_Tasks":
        return self

    def __exit__(self, *error: object) -> None:
        for task_id in sorted(self._open, reverse=True):
            self._close(task_id, failed=True)

    def apply(self, message: object) -> None:
        match message:
            case TaskBegan(task_id, title, total, unit):
                context = self._progress.task(title, total, unit)
                self._open[task_id] = context, context.__enter__()
                self.current = f"at {title!r}"
            case TaskAdvanced(task_id, amount):
                self._open[task_id][1].advance(amount)
            case TaskEnded(task_id, failed):
                self._close(task_id, failed=failed)

    def _close(self, task_id: int, *, failed: bool) -> None:
        context, _ = self._open.pop(task_id)
        error = EngineError("The task failed.") if failed else None
        with contextlib.suppress(EngineError):
            context.__exit__(type(error) if error else None, error, None)
