"""A connection: uvicorn's, with limits on how long the head of a request may be and may take."""

import asyncio
import http
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from nimlite.errors import RequestError
from nimlite.server.errors import error_object

_MAX_HEAD_BYTES = 64 * 1024
"""Of the address and all headers, as h11 has it. The parser in use has no limit of its own."""
_STALL_S = 120.0
"""Seconds in which a client that is sent more than fits into its socket and 64 KiB must take some
of it: else it is cut off, for it may have gone without a word."""
_BODY_S = 30.0
"""Seconds without a byte of a body that goes on."""
_HEAD_S = 30.0
"""Seconds for a head: from the connection on, or from the first byte after an answer."""


class Connection(HttpToolsProtocol):
    """Answers 431 to a long head and 408 to a slow one, and closes. Of a head that goes on it holds
    at most the limit and what two reads bring."""

    def __init__(
        self,
        *args: Any,
        head_s: float = _HEAD_S,
        body_s: float = _BODY_S,
        stall_s: float = _STALL_S,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._body_s = body_s
        self._body_timer: asyncio.TimerHandle | None = None
        """While a body goes on."""
        self._stall_s = stall_s
        self._stall_timer: asyncio.TimerHandle | None = None
        self._head_s = head_s
        self._cycles: list[RequestResponseCycle] = []
        """Requests that are not answered yet: several, where a client does not wait for answers."""
        self._head_bytes: int | None = None
        """Of a head that goes on, without the read that it began in, which may hold a body, too."""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_stall_timer()
        self._stop_body_timer()
        super().connection_lost(exc)
        for cycle in self._cycles:  # uvicorn tells the latest only
            cycle.disconnected = True
            cycle.message_event.set()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall_timer = self.loop.call_later(self._stall_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_stall_timer()

    def _stop_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        was_in_head = self._head_bytes is not None
        super().data_received(data)
        if self._body_timer is not None:
            self._start_body_timer()
        if was_in_head and self._head_bytes is not None:
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES:
                self._refuse_size()
        if not self._is_answering:
            self._start_timer()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        self._head_bytes = None
        self._stop_timer()
        num_bytes = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if num_bytes > _MAX_HEAD_BYTES:
            self._refuse_size()
            raise _RefusedError
        self._start_body_timer()
        super().on_headers_complete()
        self._cycles = [c for c in (*self._cycles, self.cycle) if not c.response_complete]

    def on_message_complete(self) -> None:
        self._stop_body_timer()
        super().on_message_complete()

    def _start_body_timer(self) -> None:
        self._stop_body_timer()
        self._body_timer = self.loop.call_later(self._body_s, self._give_up_body)

    def _stop_body_timer(self) -> None:
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    def _give_up_body(self) -> None:
        if self.flow.read_paused:  # it is we who take nothing
            self._start_body_timer()
        else:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Of the parser; also called for what we refused, which has its answer."""
        if not self.transport.is_closing():
            super().send_400_response(msg)

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self._head_s, self._give_up)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self._is_answering or self.transport.is_closing():
            return  # what comes next isn't read before the answer is out
        if self._head_bytes is None:
            self.transport.close()
            return
        sentence = f"The request's headers were not complete after {self._head_s:g} seconds."
        self._refuse(http.HTTPStatus.REQUEST_TIMEOUT, sentence)

    def _refuse_size(self) -> None:
        sentence = f"The request's headers are too large: {_MAX_HEAD_BYTES} bytes are read here."
        self._refuse(http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, sentence)

    def _refuse(self, status: http.HTTPStatus, sentence: str) -> None:
        if not self._is_answering:  # else it would stand inside that answer
            body = orjson.dumps(error_object(RequestError(sentence)))
            headers = [
                *self.server_state.default_headers,
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ]
            lines = b"".join(b"%s: %s\r\n" % header for header in headers)
            self.transport.write(STATUS_LINE[status] + lines + b"\r\n" + body)
        self.transport.close()


class _RefusedError(Exception):
    """Ends the parser's work on what was read."""
