"""The server in a thread, on a port of its own."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import TypeVar

from nimlite.server.serve import DrainingServer
from nimlite.server.state import ServerState

_PATIENCE_S = 30


class LiveServer(DrainingServer):
    """Knows its address and when it listens."""

    def __init__(self, state: ServerState) -> None:
        super().__init__(state)
        self.state = state
        self.listening = threading.Event()
        self.thread = threading.Thread(target=self.run, name="live-server")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @property
    def port(self) -> int:
        return int(self.servers[0].sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


S = TypeVar("S", bound=LiveServer)


@contextlib.contextmanager
def live_server(state: ServerState) -> Iterator[LiveServer]:
    """Runs until the block is left; `state.config` should ask for port 0."""
    with running(LiveServer(state)) as server:
        yield server


@contextlib.contextmanager
def running(server: S) -> Iterator[S]:
    """The server in its thread until the block is left."""
    server.thread.start()
    try:
        assert server.listening.wait(_PATIENCE_S), "the server did not start"
        yield server
    finally:
        server.should_exit = True
        server.thread.join(_PATIENCE_S)
        assert not server.thread.is_alive(), "the server did not end"
