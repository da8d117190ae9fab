"""Rank 0's side: it starts the other ranks, tells them each step, and hears when one is lost."""

import contextlib
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from nimlite.engine.wire import Channel, Failed, Log, encode
from nimlite.errors import EngineError
from nimlite.parallel.process_ranks import Meeting, ProcessRanks, open_store

FRAME = struct.Struct("<q")
STEP, FORWARD = 0, 1
"""What a message asks of the other ranks; it is its first number."""
_SILENCE_S = 6.0
"""A rank that says nothing for so long hangs: it has a thread for nothing else."""
_STOP_S = 5.0
_CHILD = "from nimlite.parallel.follower import main; main({fd})"
_log = logging.getLogger(__name__)


class Follower(Protocol):
    """What a rank but the first one is."""

    def take(self, message: np.ndarray) -> None:
        """Do what rank 0 said."""


FollowerRecipe = Callable[[ProcessRanks], Follower]
"""Makes a rank's part of the model. It is pickled: a `partial` of a function and plain data."""


@dataclass(frozen=True, slots=True)
class Enlist:
    """The first message to a rank."""

    recipe: FollowerRecipe
    meeting: Meeting
    rank: int
    log_levels: dict[str, int]
    """By logger; "" is the root."""


@dataclass(slots=True)
class _Member:
    rank: int
    process: subprocess.Popen[bytes]
    connection: socket.socket
    heard_at: float = field(default_factory=time.monotonic)


class Team:
    """All ranks, from rank 0. Closed, or with its process, the others end."""

    def __init__(
        self, members: Sequence[_Member], ranks: ProcessRanks, silence_s: float = _SILENCE_S
    ) -> None:
        self.ranks = ranks
        self._members = members
        self._silence_s = silence_s
        self._lost = threading.Event()
        self._is_closed = False
        self._lock = threading.Lock()
        self._tell: Callable[[str], None] = lambda fault: None
        self.fault = ""
        """Why it can't go on; empty: it can."""
        for member in members:
            member.connection.settimeout(None)
            threading.Thread(
                target=self._hear, args=(member,), name=f"rank-{member.rank}", daemon=True
            ).start()
        threading.Thread(target=self._watch, name="ranks", daemon=True).start()

    @classmethod
    def launch(
        cls,
        recipe: FollowerRecipe,
        *,
        tp: int,
        pp: int,
        devices: Sequence[int] = (),
        silence_s: float = _SILENCE_S,
    ) -> "Team":
        """Start tp * pp - 1 processes and meet them. Whoever calls must make its own part then, as
        `recipe` makes theirs, for they may meet over it. A rank that is silent for `silence_s`
        seconds is taken for hung."""
        size = tp * pp
        store = open_store(size)
        meeting = Meeting(port=store.port, tp=tp, pp=pp, devices=tuple(devices))
        levels = {"": logging.root.level, "nimlite": logging.getLogger("nimlite").level}
        members = []
        try:
            for rank in range(1, size):
                ours, theirs = socket.socketpair()
                with theirs:
                    member = _Member(rank, _spawn(theirs.fileno()), ours)
                members.append(member)
                ours.sendall(encode(Enlist(recipe, meeting, rank, levels)))
            return cls(members, ProcessRanks(meeting, 0, store), silence_s)
        except BaseException:
            for member in members:
                _end(member)
            raise

    @property
    def num_stages(self) -> int:
        return self.ranks.shard.stages

    @property
    def pids(self) -> list[int]:
        """Of the processes of the other ranks."""
        return [member.process.pid for member in self._members]

    def send_step(self, message: np.ndarray) -> None:
        self.send(STEP, message)

    def share(self, tokens_R: torch.Tensor) -> None:
        self.ranks.share(tokens_R)

    def send(self, kind: int, message: np.ndarray) -> None:
        """To all others. Raises EngineError where one is lost."""
        data = np.concatenate([np.array([kind], np.int32), message], dtype=np.int32).tobytes()
        for member in self._members:
            try:
                member.connection.sendall(FRAME.pack(len(data)) + data)
            except OSError as error:
                raise self.explained(error) from error

    def explained(self, error: Exception) -> EngineError:
        """What an error in work of all ranks comes from."""
        self._lost.wait(2.0)
        return EngineError(self.fault or f"The ranks could not go on: {error}")

    def on_loss(self, tell: Callable[[str], None]) -> None:
        """Let `tell` hear once why it can't go on: in another thread, or now where it is so."""
        with self._lock:
            self._tell = tell
            fault = self.fault
        if fault:
            tell(fault)

    def close(self) -> None:
        self._is_closed = True
        for member in self._members:
            with contextlib.suppress(OSError):
                member.connection.shutdown(socket.SHUT_WR)
        for member in self._members:
            with contextlib.suppress(subprocess.TimeoutExpired):
                member.process.wait(_STOP_S)
            _end(member)
        self.ranks.close()

    def _hear(self, member: _Member) -> None:
        with contextlib.suppress(OSError):
            for message in Channel(member.connection).messages():
                member.heard_at = time.monotonic()
                match message:
                    case Log(record):
                        logging.getLogger(record.name).handle(record)
                    case Failed(error):
                        self._lose(f"Rank {member.rank} failed: {error}")
        self._lose(_last_words(member))

    def _watch(self) -> None:
        while not self._lost.wait(0.5) and not self._is_closed:
            for member in self._members:
                if time.monotonic() - member.heard_at > self._silence_s:
                    self._lose(f"Rank {member.rank} did not answer for {self._silence_s:g} s.")

    def _lose(self, fault: str) -> None:
        with self._lock:
            if self._is_closed or self.fault:
                return
            self.fault, tell = f"{fault} The other ranks end with it.", self._tell
        tell(self.fault)
        self._lost.set()
        _log.error("%s", self.fault)
        # What waits for the lost one then fails; on GPUs it would wait for ever.
        for member in self._members:
            with contextlib.suppress(OSError):
                member.process.kill()
        if self.ranks.device.type == "cuda":
            os._exit(1)


def _spawn(fd: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD.format(fd=fd)],
        stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        pass_fds=(fd,),
        process_group=0,
    )


def _last_words(member: _Member) -> str:
    with contextlib.suppress(subprocess.TimeoutExpired):
        code = member.process.wait(timeout=1)
        if code < 0:
            return f"Rank {member.rank} was ended by {signal.Signals(-code).name}."
        return f"Rank {member.rank} ended with exit code {code}."
    return f"Rank {member.rank} ended."


def _end(member: _Member) -> None:
    member.process.kill()
    member.process.wait()
    member.connection.close()
