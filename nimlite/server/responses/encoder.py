"""An answer as a response, whole or as its events."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

from nimlite.engine.request import FinishReason
from nimlite.errors import EngineDeadError, NimliteError
from nimlite.server.blocks import Block, BlockDelta, BlockKind, BlockStart, BlockStream, Step
from nimlite.server.choice import Piece
from nimlite.server.responses.body import ResponsesRequest
from nimlite.server.responses.response import (
    new_item_id,
    output_item,
    output_part,
    response_object,
)
from nimlite.server.streaming import encode
from nimlite.server.usage import Usage

_DELTAS = {
    BlockKind.THOUGHTS: "response.reasoning_text",
    BlockKind.TEXT: "response.output_text",
    BlockKind.CALL: "response.function_call_arguments",
}


class ResponseEncoder:
    """One response. `keep` is given every state of it that a client may ask for later."""

    def __init__(
        self,
        body: ResponsesRequest,
        response_id: str,
        keep: Callable[[dict[str, Any]], None],
    ) -> None:
        self._body = body
        self._id = response_id
        self._keep = keep
        self._created_at = int(time.time())
        self._blocks = BlockStream()
        self._item_ids: list[str] = []
        self._finish_reason: FinishReason | None = None
        self._num_events = 0

    def begun(self) -> dict[str, Any]:
        """The response before there is any output; kept."""
        response = self._response("in_progress")
        self._keep(response)
        return response

    def whole(self, pieces: Sequence[Piece], usage: Usage) -> dict[str, Any]:
        [piece] = pieces
        self._finish_reason = piece.finish_reason
        for step in (*self._blocks.feed(piece), *self._blocks.finish()):
            if isinstance(step, BlockStart):
                self._item_ids.append(new_item_id(step.block))
        return self._ended(usage)

    def opening(self, num_choices: int) -> bytes:
        response = {"response": self._response("in_progress")}
        return self._event("response.created", response) + self._event(
            "response.in_progress", response
        )

    def pieces(self, pieces: Sequence[Piece], usage: Callable[[], Usage]) -> bytes:
        [piece] = pieces
        self._finish_reason = piece.finish_reason
        return b"".join([self._step(step) for step in self._blocks.feed(piece)])

    def closing(self, usage: Usage) -> bytes:
        steps = b"".join([self._step(step) for step in self._blocks.finish()])
        response = self._ended(usage)
        return steps + self._event(f"response.{response['status']}", {"response": response})

    def failure(self, error: NimliteError | None) -> bytes:
        response = self.failed(error)
        return self._event("response.failed", {"response": response})

    def failed(self, error: NimliteError | None) -> dict[str, Any]:
        """The response that an error ended; kept."""
        shown = error or EngineDeadError("The server met an internal error; its log says more.")
        response = self._response("failed", output=self._output("incomplete"), error=shown)
        self._keep(response)
        return response

    def cancelled(self) -> dict[str, Any]:
        """The response that the client ended; kept."""
        response = self._response("cancelled")
        self._keep(response)
        return response

    def _ended(self, usage: Usage) -> dict[str, Any]:
        is_cut = self._finish_reason is FinishReason.LENGTH
        status = "incomplete" if is_cut else "completed"
        response = self._response(status, output=self._output(status), usage=usage)
        self._keep(response)
        return response

    def _response(self, status: str, **fields: Any) -> dict[str, Any]:
        return response_object(
            self._body,
            response_id=self._id,
            created_at=self._created_at,
            status=status,
            **fields,
        )

    def _output(self, status: str) -> list[dict[str, Any]]:
        """`status`: of the last item; the others are complete."""
        blocks = self._blocks.blocks
        statuses = ["completed"] * (len(blocks) - 1) + [status]
        return [
            output_item(block, item_id, item_status)
            for block, item_id, item_status in zip(blocks, self._item_ids, statuses, strict=False)
        ]

    def _step(self, step: Step) -> bytes:
        block = step.block
        if isinstance(step, BlockStart):
            self._item_ids.append(new_item_id(block))
        where = {"item_id": self._item_ids[block.number], "output_index": block.number}
        in_part = where if block.kind is BlockKind.CALL else where | {"content_index": 0}
        match step:
            case BlockStart():
                return self._start(block, in_part)
            case BlockDelta(text=text):
                delta = in_part | {"delta": text} | _logprobs(block)
                return self._event(f"{_DELTAS[block.kind]}.delta", delta)
            case _:
                return self._end(block, in_part)

    def _start(self, block: Block, in_part: dict[str, Any]) -> bytes:
        empty = dataclasses.replace(block, text="")
        item = output_item(empty, in_part["item_id"], "in_progress")
        added = {"output_index": block.number, "item": item}
        begun = self._event("response.output_item.added", added)
        if block.kind is BlockKind.CALL:
            return begun
        part = in_part | {"part": output_part(empty)}
        return begun + self._event("response.content_part.added", part)

    def _end(self, block: Block, in_part: dict[str, Any]) -> bytes:
        whole = {"arguments" if block.kind is BlockKind.CALL else "text": block.text}
        name = {"name": block.name} if block.kind is BlockKind.CALL else _logprobs(block)
        done = self._event(f"{_DELTAS[block.kind]}.done", in_part | whole | name)
        if block.kind is not BlockKind.CALL:
            part = in_part | {"part": output_part(block)}
            done += self._event("response.content_part.done", part)
        is_cut = self._finish_reason is FinishReason.LENGTH
        item = output_item(block, in_part["item_id"], "incomplete" if is_cut else "completed")
        return done + self._event(
            "response.output_item.done", {"output_index": block.number, "item": item}
        )

    def _event(self, name: str, fields: dict[str, Any]) -> bytes:
        data = {"type": name, "sequence_number": self._num_events} | fields
        self._num_events += 1
        return b"event: " + name.encode() + b"\ndata: " + encode(data) + b"\n\n"


def _logprobs(block: Block) -> dict[str, Any]:
    return {"logprobs": []} if block.kind is BlockKind.TEXT else {}
