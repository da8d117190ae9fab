"""A response that ends when its client goes away, its time is over, or the server must."""

import asyncio
from abc import ABC, abstractmethod

import anyio
from fastapi import Response
from starlette.types import Receive, Scope, Send

from nimlite.errors import NimliteError
from nimlite.server.caller import Caller
from nimlite.server.state import ServerState


class WatchedResponse(Response, ABC):
    """What is sent is made while it is sent: an error before the first byte propagates to the error
    handlers."""

    def __init__(self, state: ServerState) -> None:
        super().__init__()
        self._state = state
        self.caller = Caller()
        self.answer_id = ""
        self._scope = anyio.CancelScope()
        self._interruption: NimliteError | None = None
        self._is_whole = False
        """All of it is on its way: too late to interrupt."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.caller = Caller.of(scope)
        self._state.running.add(self)
        stop_clock = self.caller.on_deadline(self.interrupt)
        try:
            with self._scope:
                watcher = asyncio.create_task(self._cancel_on_disconnect(receive))
                try:
                    await self._run(scope, receive, send)
                finally:
                    watcher.cancel()
        finally:
            stop_clock()
            self._state.running.discard(self)
        if self._interruption is not None:
            await self._send_interruption(send, self._interruption)

    def interrupt(self, error: NimliteError) -> None:
        if not self._is_whole:
            self._interruption = error
            self._scope.cancel()

    @abstractmethod
    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Make and send all."""

    async def _send_interruption(self, send: Send, error: NimliteError) -> None:
        """The last words. Raises `error` where nothing has been sent yet."""
        raise error

    async def _cancel_on_disconnect(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._scope.cancel()
