"""The process that an engine runs in: made by `process.EngineProcess`, and ended with it."""

import contextlib
import gc
import itertools
import logging
import logging.handlers
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence

from nimlite.engine.loop import EngineLoop
from nimlite.engine.request import Delta
from nimlite.engine.wire import (
    Abort,
    Channel,
    Failed,
    Launch,
    Log,
    Ping,
    Prepared,
    Ready,
    Step,
    Submit,
    TaskAdvanced,
    TaskBegan,
    TaskEnded,
)
from nimlite.errors import EngineError, NimliteError

_GRACE_S = 10.0
"""What the step in flight may take once the parent has gone."""
_TELL_EVERY_S = 0.1
_log = logging.getLogger(__name__)


def main(fd: int) -> None:
    """Serve the parent at the other end of the socket `fd`; returns when it wants no more."""
    # Only the parent decides about our end: a signal to the whole group is for it.
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    connection = socket.socket(fileno=fd)
    channel = Channel(connection)
    with contextlib.suppress(ConnectionError):  # a parent that has gone wants to hear nothing
        _Child(channel).run()


class _Child:
    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._messages = iter(channel.messages())
        self._is_serving = threading.Event()

    def run(self) -> None:
        launch = next(self._messages, None)
        if launch is None:
            return
        assert isinstance(launch, Launch)
        send_logs(self._channel, launch.log_levels)
        threading.Thread(target=self._watch, name="parent-watch", daemon=True).start()
        prepared = self._prepare(launch)
        if prepared is not None:
            self._serve(prepared)

    def _watch(self) -> None:
        """Where the parent goes away nobody waits for us, whatever we hang in."""
        poll = select.poll()
        poll.register(self._channel.connection, select.POLLRDHUP)
        poll.poll()
        if self._is_serving.is_set():
            time.sleep(_GRACE_S)
        os._exit(1)

    def _prepare(self, launch: Launch) -> Prepared | None:
        try:
            return launch.recipe(_SentProgress(self._channel))
        except NimliteError as error:
            self._channel.send(Failed(error))
        except Exception as failure:  # noqa: BLE001 - the edge: the parent has no traceback
            _log.exception("the engine could not be made")
            self._channel.send(Failed(EngineError(f"The engine could not be made: {failure}")))
        return None

    def _serve(self, prepared: Prepared) -> None:
        # What is there now stays: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        loop = EngineLoop(prepared.engine)
        prepared.engine.on_loss(loop.fail)
        self._is_serving.set()
        self._channel.send(Ready(loop.limits, loop.stats, prepared.facts))
        threading.Thread(target=self._receive, args=(loop,), name="inbox", daemon=True).start()

        def send(deltas: Sequence[Delta]) -> None:
            self._channel.send(Step.pack(deltas, loop.stats))

        loop.run(send)

    def _receive(self, loop: EngineLoop) -> None:
        with contextlib.suppress(ConnectionError):
            for message in self._messages:
                match message:
                    case Submit(requests):
                        loop.submit(requests)
                    case Abort(request_ids):
                        loop.abort(request_ids)
                    case Ping():
                        loop.ping()
        loop.stop()


def send_logs(channel: Channel, levels: dict[str, int]) -> None:
    """Let what this process logs appear at the other end."""
    logging.basicConfig(handlers=[_LogSender(channel)], format="%(message)s", force=True)
    logging.captureWarnings(True)
    for name, level in levels.items():
        logging.getLogger(name or None).setLevel(level)


class _LogSender(logging.handlers.QueueHandler):
    """QueueHandler makes a record that can be pickled."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(channel)  # type: ignore[arg-type]
        self._channel = channel

    def enqueue(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            self._channel.send(Log(record))


class _SentProgress:
    """Tasks told to the parent, not more often than anybody looks."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._ids = itertools.count()

    @contextlib.contextmanager
    def task(self, title: str, total: float | None, unit: str = "B") -> Iterator["_SentTask"]:
        task_id = next(self._ids)
        self._channel.send(TaskBegan(task_id, title, total, unit))
        task, failed = _SentTask(self._channel, task_id), True
        try:
            yield task
            failed = False
        finally:
            task.tell()
            self._channel.send(TaskEnded(task_id, failed))


class _SentTask:
    def __init__(self, channel: Channel, task_id: int) -> None:
        self._channel = channel
        self._id = task_id
        self._untold = 0.0
        self._told_at = time.monotonic()

    def advance(self, amount: float) -> None:
        self._untold += amount
        if time.monotonic() - self._told_at >= _TELL_EVERY_S:
            self.tell()

    def tell(self) -> None:
        self._channel.send(TaskAdvanced(self._id, self._untold))
        self._untold, self._told_at = 0.0, time.monotonic()
