"""Runs the application: binds early, loads meanwhile, drains on SIGTERM."""

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any

import uvicorn

from nimlite.errors import NimliteError, NotReadyError, SettingError
from nimlite.server.app import create_app
from nimlite.server.config import ServerConfig
from nimlite.server.connection import Connection
from nimlite.server.state import ServedModel, ServerState

_log = logging.getLogger(__name__)
_BACKLOG = 2048
"""Connections that may wait to be accepted; as uvicorn's own."""
_HEADERS = [
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
]
"""Of every answer, the parser's own refusals among them."""
_CLOSE_S = 2
"""Seconds that interrupted answers have to send their last words."""


class DrainingServer(uvicorn.Server):
    """On SIGTERM or SIGINT new requests get 503 and running ones may finish, up to a limit.

    A second signal ends it at once.
    """

    def __init__(self, state: ServerState) -> None:
        config = state.config
        super().__init__(
            uvicorn.Config(
                create_app(state),
                host=config.host,
                port=config.port,
                timeout_keep_alive=config.keep_alive_s,
                timeout_graceful_shutdown=_CLOSE_S,
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="off",
                http=Connection,
                ws="none",
                headers=_HEADERS,
                **_tls(config),
            )
        )
        self._state = state
        self._drain_deadline: float | None = None

    def drain(self) -> None:
        """Take no new requests; end when the running ones have. Callable from any thread."""
        self._state.draining = True
        self._drain_deadline = time.monotonic() + self._state.config.drain_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # The signal isn't captured for being raised again: a drained server has ended well.
        if self._drain_deadline is None:
            self.drain()
        else:
            self._drain_deadline = time.monotonic()

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second; True ends the server."""
        if self._drain_deadline is not None:
            if not self._state.running:
                self.should_exit = True
            elif time.monotonic() >= self._drain_deadline:
                self._interrupt()
                self.should_exit = True
        return await super().on_tick(counter)

    def _interrupt(self) -> None:
        answers = list(self._state.running)
        _log.warning("Interrupting %d answers that are still running", len(answers))
        for answer in answers:
            answer.interrupt(NotReadyError("The server shut down before the answer was complete."))


async def serve(state: ServerState, load: Callable[[], Awaitable[ServedModel]]) -> None:
    """Serve until a signal ends it. The port is bound while `load` runs, and answers 503.

    `load` runs in this event loop and keeps long work off it. What it raises ends the server and is
    raised here; SettingError where the port is taken.
    """
    server = DrainingServer(state)
    listener = _bind(state.config)
    loading = asyncio.create_task(_load(server, state, load))
    try:
        await server.serve([listener])
        if loading.done():
            loading.result()
    finally:
        loading.cancel()


def _bind(config: ServerConfig) -> socket.socket:
    """Raises SettingError where the port can't be had."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        return socket.create_server((config.host, config.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise SettingError(
            f"Port {config.port} on {config.host} can't be used: {error.strerror}. "
            f"Set NIM_SERVER_PORT to a free one."
        ) from error


def _tls(config: ServerConfig) -> dict[str, Any]:
    context = config.tls
    return {} if context is None else {"ssl_context_factory": lambda *_: context}


async def _load(
    server: DrainingServer, state: ServerState, load: Callable[[], Awaitable[ServedModel]]
) -> None:
    try:
        state.set_ready(await load())
    except NimliteError as error:
        state.startup.failure = str(error)
        raise
    finally:
        # Without a model there is nothing to serve; whoever started us decides what comes next.
        server.should_exit = not state.is_loaded
