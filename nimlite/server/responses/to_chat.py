"""A response's body as a chat completion's."""

from collections.abc import Iterable, Sequence
from typing import Any

from nimlite.server.protocol import ChatCompletionRequest
from nimlite.server.responses.body import NamedFunction, ResponsesRequest, SchemaFormat, TextConfig
from nimlite.server.responses.items import (
    FunctionCall,
    FunctionCallOutput,
    InputItem,
    Message,
    ReasoningItem,
)
from nimlite.server.validation import checked


def to_chat(body: ResponsesRequest, items: Sequence[InputItem]) -> ChatCompletionRequest:
    """The same conversation: `items` are those of the responses before, and the body's own. Raises
    RequestError."""
    system = [{"role": "system", "content": body.instructions}] if body.instructions else []
    fields: dict[str, Any] = {
        "model": body.model,
        "messages": [*system, *_messages(items)],
        "stream": body.stream,
        "max_completion_tokens": body.max_output_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "tools": [_tool(tool.model_dump(exclude={"type"})) for tool in body.tools or ()],
        "parallel_tool_calls": body.parallel_tool_calls,
        "response_format": _response_format(body.text),
        "reasoning_effort": body.reasoning.effort if body.reasoning else None,
        "chat_template_kwargs": body.chat_template_kwargs,
        "user": body.user,
    }
    choice = body.tool_choice
    if body.tools or choice != "auto":
        named = {"type": "function", "function": {"name": getattr(choice, "name", None)}}
        fields["tool_choice"] = named if isinstance(choice, NamedFunction) else choice
    return checked(ChatCompletionRequest, fields)


def _messages(items: Sequence[InputItem]) -> Iterable[dict[str, Any]]:
    """What an assistant thinks, says and calls in a row is one message."""
    turn: dict[str, Any] = {}
    for item in items:
        own = _assistant_part(item)
        if turn and (not own or not turn.keys().isdisjoint(own.keys() - {"tool_calls"})):
            yield {"role": "assistant"} | turn
            turn = {}
        if not own:
            yield _foreign_message(item)
        elif "tool_calls" in turn and "tool_calls" in own:
            turn["tool_calls"] += own["tool_calls"]
        else:
            turn |= own
    if turn:
        yield {"role": "assistant", "content": ""} | turn


def _assistant_part(item: InputItem) -> dict[str, Any]:
    """Empty where it isn't the assistant's."""
    match item:
        case ReasoningItem():
            return {"reasoning_content": "\n".join(part.text for part in item.content or ())}
        case Message(role="assistant"):
            return {"content": item.text}
        case FunctionCall():
            function = {"name": item.name, "arguments": item.arguments}
            call = {"id": item.call_id, "type": "function", "function": function}
            return {"tool_calls": [call]}
    return {}


def _foreign_message(item: InputItem) -> dict[str, Any]:
    if isinstance(item, FunctionCallOutput):
        return {"role": "tool", "tool_call_id": item.call_id, "content": item.text}
    assert isinstance(item, Message)
    return {"role": item.role, "content": item.text}


def _tool(function: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": function}


def _response_format(text: TextConfig | None) -> dict[str, Any] | None:
    if text is None or text.format is None:
        return None
    if not isinstance(text.format, SchemaFormat):
        return text.format.model_dump()
    schema = text.format.model_dump(by_alias=True, exclude={"type"})
    return {"type": "json_schema", "json_schema": schema}
