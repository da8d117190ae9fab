"""Refuses bodies that are too large before they fill the memory."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nimlite.errors import PayloadTooLargeError
from nimlite.server.errors import error_response

_LINGER_S = 5.0
"""How long a refused client may go on sending. Closing at once would reset the connection, and the
client might never see why."""


class BodyLimit:
    """ASGI middleware: 413 by the Content-Length, or as soon as a chunked body grew too large."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif _content_length(scope) > self._max_bytes:
            await self._refuse(scope, receive, send)
        else:
            await self._count(scope, receive, send)

    async def _count(self, scope: Scope, receive: Receive, send: Send) -> None:
        num_bytes = 0

        async def counting_receive() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_bytes:
                raise _OverflowError
            return message

        try:
            await self._app(scope, counting_receive, send)
        except _OverflowError:
            await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer in full first, then throw away what still comes, then close."""
        error = PayloadTooLargeError(
            f"The request body is too large: at most {self._max_bytes} bytes are read here."
        )
        response = error_response(error, scope["path"], retry_after_s=0)
        response.headers["Connection"] = "close"
        await send(
            {
                "type": "http.response.start",
                "status": response.status_code,
                "headers": response.raw_headers,
            }
        )
        await send({"type": "http.response.body", "body": bytes(response.body), "more_body": True})
        try:
            async with asyncio.timeout(_LINGER_S):
                while (await receive()).get("more_body", False):
                    pass
        except TimeoutError:
            pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _OverflowError(Exception):
    """From `receive` to `BodyLimit`: the application between them has no handler for it."""


def _content_length(scope: Scope) -> int:
    """0 where absent (chunked). The HTTP parser has refused values that are no number."""
    return next((int(value) for name, value in scope["headers"] if name == b"content-length"), 0)
