"""X-Request-Id: every answer carries one, the client's own where it sent one."""

import re
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nimlite.server.caller import REQUEST_ID

_ID = re.compile(rb"[\x21-\x7e]{1,256}")
_HEADER = b"x-request-id"


class RequestId:
    """Middleware. An id that a header can't carry safely is replaced by one of ours."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(_HEADER, b"")
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex.encode()
        scope[REQUEST_ID] = request_id.decode()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                # Anthropic's clients read the second.
                ids = [(_HEADER, request_id), (b"request-id", request_id)]
                message = {**message, "headers": [*message.get("headers", []), *ids]}
            await send(message)

        await self._app(scope, receive, send_with_id)
