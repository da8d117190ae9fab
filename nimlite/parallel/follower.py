"""The process of a rank but the first one: made by `team.Team`, and ended with it."""

import contextlib
import gc
import logging
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator

import numpy as np

from nimlite.engine.child import send_logs
from nimlite.engine.wire import Channel, Failed, Ping, read_one
from nimlite.errors import EngineError, NimliteError
from nimlite.parallel.process_ranks import ProcessRanks
from nimlite.parallel.team import FRAME, Enlist

_BEAT_S = 0.5
_log = logging.getLogger(__name__)


def main(fd: int) -> None:
    """Do what rank 0 at the other end of the socket `fd` says; returns when it wants no more."""
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    connection = socket.socket(fileno=fd)
    channel = Channel(connection)
    enlist = read_one(connection)
    assert isinstance(enlist, Enlist)
    send_logs(channel, enlist.log_levels)
    for work in (_end_with, _beat):
        threading.Thread(target=work, args=(channel,), daemon=True).start()
    try:
        _follow(enlist, connection)
    except NimliteError as error:
        _say(channel, error)
    except Exception as failure:  # noqa: BLE001 - the edge: rank 0 has no traceback
        _log.exception("a rank failed")
        _say(channel, EngineError(f"{type(failure).__name__}: {failure}"))
    os._exit(0)  # libraries may wait for ranks that are gone


def _follow(enlist: Enlist, connection: socket.socket) -> None:
    follower = enlist.recipe(ProcessRanks(enlist.meeting, enlist.rank))
    gc.collect()
    gc.freeze()
    for message in _messages(connection):
        follower.take(message)


def _messages(connection: socket.socket) -> Iterator[np.ndarray]:
    with connection.makefile("rb") as stream:
        while head := stream.read(FRAME.size):
            (length,) = FRAME.unpack(head)
            yield np.frombuffer(stream.read(length), np.int32)


def _say(channel: Channel, error: Exception) -> None:
    with contextlib.suppress(OSError):
        channel.send(Failed(error))


def _end_with(channel: Channel) -> None:
    """Where rank 0 goes away nobody waits for us, whatever we hang in."""
    poll = select.poll()
    poll.register(channel.connection, select.POLLRDHUP)
    poll.poll()
    time.sleep(_BEAT_S)  # told to end, we do so by ourselves
    os._exit(1)


def _beat(channel: Channel) -> None:
    with contextlib.suppress(OSError):
        while True:
            channel.send(Ping())
            time.sleep(_BEAT_S)
