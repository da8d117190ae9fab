"""The responses that clients may come back to, in memory."""

import http
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Protocol

from nimlite.errors import RequestError
from nimlite.server.json_bytes import json_bytes
from nimlite.server.responses.items import InputItem


class ResponseNotFoundError(RequestError):
    """No such response is kept here."""

    status = http.HTTPStatus.NOT_FOUND
    code = "response_not_found"


class Cancellable(Protocol):
    """A response under way in the background."""

    async def cancel(self) -> None:
        """End it, and wait until it has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResponse:
    """A response and the conversation that led to it."""

    response: dict[str, Any]
    """The object that a client gets."""
    items: tuple[InputItem, ...]
    """Of the responses before and of its own input."""
    num_own_items: int
    """The last of `items`: its own input."""
    running: Cancellable | None = None


class ResponseStore:
    """The latest used responses, up to a number of them and of bytes."""

    def __init__(self, max_responses: int, max_bytes: int) -> None:
        self._max_responses = max_responses
        self._max_bytes = max_bytes
        self._stored: OrderedDict[str, tuple[StoredResponse, int]] = OrderedDict()
        self._num_bytes = 0

    def put(self, stored: StoredResponse) -> None:
        """In place of what has the same id."""
        response_id = stored.response["id"]
        self.pop(response_id)
        own = stored.items[len(stored.items) - stored.num_own_items :]
        num_bytes = len(json_bytes(stored.response)) + sum(
            len(item.model_dump_json()) for item in own
        )
        self._stored[response_id] = (stored, num_bytes)
        self._num_bytes += num_bytes
        while len(self._stored) > self._max_responses or self._num_bytes > self._max_bytes:
            self.pop(next(iter(self._stored)))

    def get(self, response_id: str) -> StoredResponse:
        """Raises ResponseNotFoundError."""
        found = self._stored.get(response_id)
        if found is None:
            raise ResponseNotFoundError(
                f"There is no response {response_id[:100]!r}. The latest {self._max_responses} are "
                "kept, and none over a restart.",
                param="response_id",
            )
        self._stored.move_to_end(response_id)
        return found[0]

    def pop(self, response_id: str) -> None:
        """Forget it, where it is there."""
        found = self._stored.pop(response_id, None)
        if found is not None:
            self._num_bytes -= found[1]
