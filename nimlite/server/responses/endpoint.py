"""/v1/responses: create, get, list the input of, cancel and delete."""

from typing import Any

from fastapi import Response
from pydantic import TypeAdapter

from nimlite.errors import RequestError
from nimlite.server.answer import Answer, for_caller
from nimlite.server.caller import Caller
from nimlite.server.chat import chat_job
from nimlite.server.errors import json_response
from nimlite.server.generation import Generation
from nimlite.server.protocol import ChatCompletionRequest
from nimlite.server.responses.background import BackgroundResponse
from nimlite.server.responses.body import Item, ResponsesRequest
from nimlite.server.responses.encoder import ResponseEncoder
from nimlite.server.responses.items import InputItem, Message
from nimlite.server.responses.response import new_response_id
from nimlite.server.responses.store import (
    Cancellable,
    ResponseNotFoundError,
    ResponseStore,
    StoredResponse,
)
from nimlite.server.responses.to_chat import to_chat
from nimlite.server.state import ServerState

_ITEMS: TypeAdapter[list[InputItem]] = TypeAdapter(list[Item])


class Responses:
    """The endpoints, over the responses that are kept."""

    def __init__(self, state: ServerState) -> None:
        self._state = state
        config = state.config
        self._store = ResponseStore(config.max_stored_responses, config.max_stored_bytes)

    async def create(self, body: ResponsesRequest, caller: Caller) -> Response:
        """The response, its events, or in the background its beginning."""
        own = body.input
        if isinstance(own, str):
            own = [Message(role="user", content=own)]
        items = (*self._earlier_items(body.previous_response_id), *own)
        creation = _Creation(self._store, body, items, num_own_items=len(own))
        chat = to_chat(body, items)
        if body.background:
            return await self._start(creation, chat, caller)
        return Answer(
            self._state,
            model_name=body.model,
            stream=bool(body.stream),
            prepare=lambda model: chat_job(chat, creation.id, model),
            encoder=lambda model: creation.encoder,
        )

    def get(self, response_id: str) -> dict[str, Any]:
        """Raises ResponseNotFoundError."""
        return self._store.get(response_id).response

    def input_items(self, response_id: str) -> dict[str, Any]:
        """Its own input. Raises ResponseNotFoundError."""
        stored = self._store.get(response_id)
        own = stored.items[len(stored.items) - stored.num_own_items :]
        data = [
            {"id": f"item_{number}"} | item.model_dump(mode="json", exclude_none=True)
            for number, item in enumerate(own)
        ]
        first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
        ends = {"first_id": first, "last_id": last, "has_more": False}
        return {"object": "list", "data": data} | ends

    async def cancel(self, response_id: str) -> dict[str, Any]:
        """The response, ended if it was under way. Raises ResponseNotFoundError, or RequestError
        for one that isn't in the background."""
        stored = self._store.get(response_id)
        if not stored.response["background"]:
            raise RequestError(
                "Only a response with 'background': true can be cancelled; another one ends when "
                "its client goes away.",
                param="response_id",
            )
        if stored.running is not None:
            await stored.running.cancel()
        return self.get(response_id)

    async def delete(self, response_id: str) -> dict[str, Any]:
        """Raises ResponseNotFoundError."""
        stored = self._store.get(response_id)
        if stored.running is not None:
            await stored.running.cancel()
        self._store.pop(response_id)
        return {"id": response_id, "object": "response", "deleted": True}

    def _earlier_items(self, response_id: str | None) -> tuple[InputItem, ...]:
        """The conversation up to that response. Raises RequestError where it isn't kept."""
        if response_id is None:
            return ()
        try:
            stored = self._store.get(response_id)
        except ResponseNotFoundError as error:
            raise RequestError(
                str(error), param="previous_response_id", code="previous_response_not_found"
            ) from None
        if stored.running is not None:
            raise RequestError(
                f"The response {response_id!r} is still under way.", param="previous_response_id"
            )
        return (*stored.items, *_ITEMS.validate_python(stored.response["output"]))

    async def _start(
        self, creation: "_Creation", chat: ChatCompletionRequest, caller: Caller
    ) -> Response:
        model, ticket = self._state.admit(chat.model, caller)
        try:
            job = for_caller(await chat_job(chat, creation.id, model), caller)
            generation = Generation(job, model, self._state.metrics)
        except BaseException:
            ticket.release(0)
            raise
        running = BackgroundResponse(
            generation,
            creation.encoder,
            self._state.running.discard,
            answer_id=creation.id,
            caller=caller,
            ticket=ticket,
        )
        self._state.running.add(running)
        creation.running = running
        return json_response(creation.encoder.begun())


class _Creation:
    """One response on its way into the store."""

    def __init__(
        self,
        store: ResponseStore,
        body: ResponsesRequest,
        items: tuple[InputItem, ...],
        *,
        num_own_items: int,
    ) -> None:
        self._store = store
        self._body = body
        self._items = items
        self._num_own_items = num_own_items
        self.id = new_response_id()
        self.encoder = ResponseEncoder(body, self.id, self._keep)
        self.running: Cancellable | None = None

    def _keep(self, response: dict[str, Any]) -> None:
        if self._body.store is False:
            return
        is_running = response["status"] == "in_progress"
        stored = StoredResponse(
            response=response,
            items=self._items,
            num_own_items=self._num_own_items,
            running=self.running if is_running else None,
        )
        self._store.put(stored)
