"""An answer as Anthropic's message, whole or as its events."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

from nimlite.engine.request import FinishReason
from nimlite.errors import NimliteError
from nimlite.server.anthropic.body import MessagesRequest
from nimlite.server.anthropic.errors import anthropic_error
from nimlite.server.blocks import Block, BlockDelta, BlockKind, BlockStart, BlockStream, Step
from nimlite.server.choice import Piece
from nimlite.server.streaming import encode
from nimlite.server.usage import Usage


class MessageEncoder:
    """One message."""

    def __init__(self, body: MessagesRequest, message_id: str) -> None:
        self._body = body
        self._id = message_id
        self._blocks = BlockStream()
        self._has_begun = False
        self._last = Piece(0)

    def whole(self, pieces: Sequence[Piece], usage: Usage) -> dict[str, Any]:
        [piece] = pieces
        for _ in (*self._blocks.feed(piece), *self._blocks.finish()):
            pass
        content = [_content(block) for block in self._blocks.blocks]
        return self._message(content, usage) | self._stop(piece, usage)

    def opening(self, num_choices: int) -> bytes:
        """The message begins with the first piece, when the tokens of the prompt are known."""
        return b""

    def pieces(self, pieces: Sequence[Piece], usage: Callable[[], Usage]) -> bytes:
        begun = b""
        if not self._has_begun:
            self._has_begun = True
            begun = _event("message_start", {"message": self._message([], usage())})
        [self._last] = pieces
        return begun + b"".join(map(_step, self._blocks.feed(self._last)))

    def closing(self, usage: Usage) -> bytes:
        delta = {"delta": self._stop(self._last, usage), "usage": _usage(usage)}
        return (
            b"".join(map(_step, self._blocks.finish()))
            + _event("message_delta", delta)
            + _event("message_stop", {})
        )

    def failure(self, error: NimliteError | None) -> bytes:
        return _event("error", anthropic_error(error))

    def _message(self, content: list[dict[str, Any]], usage: Usage) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._body.model,
            "content": content,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage(usage),
        }

    def _stop(self, piece: Piece, usage: Usage) -> dict[str, Any]:
        reason = "end_turn"
        if piece.finish_reason is FinishReason.LENGTH:
            is_full = usage.num_completion_tokens < self._body.max_tokens
            reason = "model_context_window_exceeded" if is_full else "max_tokens"
        elif piece.num_calls:
            reason = "tool_use"
        elif piece.stop_string is not None:
            reason = "stop_sequence"
        return {"stop_reason": reason, "stop_sequence": piece.stop_string}


def _usage(usage: Usage) -> dict[str, Any]:
    """Tokens from the cache are not among the input's."""
    return {
        "input_tokens": usage.num_prompt_tokens - usage.num_cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.num_cached_tokens,
        "output_tokens": usage.num_completion_tokens,
    }


def _step(step: Step) -> bytes:
    index = {"index": step.block.number}
    match step:
        case BlockStart(block):
            empty = _content(dataclasses.replace(block, text=""))
            return _event("content_block_start", index | {"content_block": empty})
        case BlockDelta(block, text):
            return _event("content_block_delta", index | {"delta": _delta(block.kind, text)})
        case _:
            signed = b""
            if step.block.kind is BlockKind.THOUGHTS:
                delta = {"type": "signature_delta", "signature": ""}
                signed = _event("content_block_delta", index | {"delta": delta})
            return signed + _event("content_block_stop", index)


def _delta(kind: BlockKind, text: str) -> dict[str, Any]:
    match kind:
        case BlockKind.THOUGHTS:
            return {"type": "thinking_delta", "thinking": text}
        case BlockKind.TEXT:
            return {"type": "text_delta", "text": text}
        case BlockKind.CALL:
            return {"type": "input_json_delta", "partial_json": text}


def _content(block: Block) -> dict[str, Any]:
    match block.kind:
        case BlockKind.THOUGHTS:
            return {"type": "thinking", "thinking": block.text, "signature": ""}
        case BlockKind.TEXT:
            return {"type": "text", "text": block.text}
        case BlockKind.CALL:
            return {
                "type": "tool_use",
                "id": block.call_id,
                "name": block.name,
                "input": _arguments(block.text),
            }


def _arguments(text: str) -> dict[str, Any]:
    """An object; of a call that was cut off or is no JSON, an empty one."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _event(name: str, fields: dict[str, Any]) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + encode({"type": name} | fields) + b"\n\n"
