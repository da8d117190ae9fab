"""A body of Anthropic's as a chat completion's."""

import json
from collections.abc import Iterable
from typing import Any

from nimlite.server.anthropic.body import (
    AssistantMessage,
    CountTokensRequest,
    Message,
    MessagesRequest,
    TextBlock,
    ThinkingBlock,
    ToolChoice,
    ToolDefinition,
    ToolResultBlock,
    ToolUseBlock,
    UserMessage,
)
from nimlite.server.protocol import ChatCompletionRequest
from nimlite.server.validation import checked


def to_chat(body: CountTokensRequest) -> ChatCompletionRequest:
    """The same conversation. Raises RequestError."""
    fields: dict[str, Any] = {
        "model": body.model,
        "messages": [*_system(body), *(m for message in body.messages for m in _turn(message))],
        "continue_final_message": isinstance(body.messages[-1], AssistantMessage),
    }
    fields |= {"tools": [_tool(tool) for tool in body.tools or ()]} | _choice(body.tool_choice)
    if body.thinking is not None:
        is_on = body.thinking.type != "disabled"
        fields["chat_template_kwargs"] = {"enable_thinking": is_on}
        fields["max_thinking_tokens"] = body.thinking.budget_tokens if is_on else None
    if isinstance(body, MessagesRequest):
        fields |= {
            "max_completion_tokens": body.max_tokens,
            "stream": body.stream,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "top_k": body.top_k,
            "stop": body.stop_sequences,
            "user": body.metadata.user_id if body.metadata else None,
        }
    return checked(ChatCompletionRequest, fields)


def _system(body: CountTokensRequest) -> Iterable[dict[str, Any]]:
    if body.system:
        yield {"role": "system", "content": _text(body.system)}


def _text(content: str | list[TextBlock] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(block.text for block in content)


def _turn(message: Message) -> Iterable[dict[str, Any]]:
    if isinstance(message.content, str):
        yield {"role": message.role, "content": message.content}
    elif isinstance(message, UserMessage):
        yield from _user_turn(message)
    else:
        yield _assistant_turn(message)


def _user_turn(message: UserMessage) -> Iterable[dict[str, Any]]:
    """Results of tools are messages of their own; texts that follow each other are one."""
    texts: list[str] = []
    for block in message.content:
        if isinstance(block, ToolResultBlock):
            if texts:
                yield {"role": "user", "content": "\n".join(texts)}
                texts = []
            yield {
                "role": "tool",
                "tool_call_id": block.tool_use_id,
                "content": _text(block.content),
            }
        elif isinstance(block, TextBlock):
            texts.append(block.text)
    if texts:
        yield {"role": "user", "content": "\n".join(texts)}


def _assistant_turn(message: AssistantMessage) -> dict[str, Any]:
    texts, thoughts, calls = [], [], []
    for block in message.content:
        match block:
            case TextBlock():
                texts.append(block.text)
            case ThinkingBlock():
                thoughts.append(block.thinking)
            case ToolUseBlock():
                arguments = json.dumps(block.input, ensure_ascii=False)
                function = {"name": block.name, "arguments": arguments}
                calls.append({"id": block.id, "type": "function", "function": function})
    return {
        "role": "assistant",
        "content": "".join(texts),
        "reasoning_content": "\n".join(thoughts) or None,
        "tool_calls": calls or None,
    }


def _tool(tool: ToolDefinition) -> dict[str, Any]:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.input_schema,
        "strict": tool.strict,
    }
    return {"type": "function", "function": function}


def _choice(choice: ToolChoice | None) -> dict[str, Any]:
    if choice is None:
        return {}
    of_types: dict[str, Any] = {
        "auto": "auto",
        "any": "required",
        "none": "none",
        "tool": {"type": "function", "function": {"name": choice.name}},
    }
    return {
        "tool_choice": of_types[choice.type],
        "parallel_tool_calls": not choice.disable_parallel_tool_use,
    }
