"""The response object, and its output items."""

import uuid
from collections.abc import Sequence
from typing import Any

from nimlite.errors import NimliteError
from nimlite.server.blocks import Block, BlockKind
from nimlite.server.responses.body import ResponsesRequest
from nimlite.server.usage import Usage

_PREFIXES = {BlockKind.THOUGHTS: "rs", BlockKind.TEXT: "msg", BlockKind.CALL: "fc"}


def new_response_id() -> str:
    return f"resp_{uuid.uuid4().hex}"


def new_item_id(block: Block) -> str:
    return f"{_PREFIXES[block.kind]}_{uuid.uuid4().hex}"


def response_object(
    body: ResponsesRequest,
    *,
    response_id: str,
    created_at: int,
    status: str,
    output: Sequence[dict[str, Any]] = (),
    usage: Usage | None = None,
    error: NimliteError | None = None,
) -> dict[str, Any]:
    """In any state of its life."""
    shown = body.model_dump(mode="json", by_alias=True)
    return {
        "id": response_id,
        "object": "response",
        "created_at": created_at,
        "status": status,
        "background": bool(body.background),
        "error": None if error is None else {"code": "server_error", "message": str(error)},
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "model": body.model,
        "output": list(output),
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
        "service_tier": "default",
        "store": body.store is not False,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": {"format": (shown["text"] or {}).get("format") or {"type": "text"}},
        "tool_choice": shown["tool_choice"] or "auto",
        "tools": shown["tools"] or [],
        "top_logprobs": 0,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": "disabled",
        "usage": None if usage is None else _usage(usage),
        "user": body.user,
    }


def output_item(block: Block, item_id: str, status: str) -> dict[str, Any]:
    """A block of the answer; empty while it has just begun."""
    head = {"id": item_id, "status": status}
    match block.kind:
        case BlockKind.THOUGHTS:
            parts = [output_part(block)] if block.text else []
            return head | {"type": "reasoning", "summary": [], "content": parts}
        case BlockKind.TEXT:
            is_new = status == "in_progress"
            parts = [] if is_new else [output_part(block)]
            return head | {"type": "message", "role": "assistant", "content": parts}
        case BlockKind.CALL:
            call = {"call_id": block.call_id, "name": block.name, "arguments": block.text}
            return head | {"type": "function_call"} | call


def output_part(block: Block) -> dict[str, Any]:
    """The one part of an item that has parts."""
    if block.kind is BlockKind.THOUGHTS:
        return {"type": "reasoning_text", "text": block.text}
    return {"type": "output_text", "text": block.text, "annotations": [], "logprobs": []}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.num_prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.num_cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.num_completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.num_thought_tokens},
        "total_tokens": usage.num_prompt_tokens + usage.num_completion_tokens,
    }
