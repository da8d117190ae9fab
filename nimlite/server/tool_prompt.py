"""Tools for models whose chat template has no word for them: described in plain messages.

The form is that of Nous' Hermes models (https://github.com/NousResearch/Hermes-Function-Calling),
which many models have met in training.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from nimlite.server.conversation import Conversation

_INSTRUCTION = """You may call these functions, one JSON schema a line:
<tools>
{tools}
</tools>
To call one, write an object with its name and its arguments between tags, and nothing after it:
<tool_call>
{{"name": "<name>", "arguments": {{...}}}}
</tool_call>"""


def with_described_tools(conversation: Conversation) -> Conversation:
    """The same conversation, in which tools, calls and results are text."""
    messages = [_as_text(message) for message in conversation.messages]
    if not conversation.tools:
        return dataclasses.replace(conversation, messages=tuple(messages))
    tools = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in conversation.tools)
    instruction = _INSTRUCTION.format(tools=tools)
    if messages[0]["role"] == "system":
        first = messages.pop(0)
        instruction = f"{first['content']}\n\n{instruction}"
    system = {"role": "system", "content": instruction}
    return dataclasses.replace(conversation, messages=(system, *messages), tools=())


def _as_text(message: Mapping[str, Any]) -> Mapping[str, Any]:
    if message["role"] == "tool":
        result = f"<tool_response>\n{message['content']}\n</tool_response>"
        return {"role": "user", "content": result}
    calls = message.get("tool_calls", ())
    texts = [json.dumps(call["function"], ensure_ascii=False) for call in calls]
    content = [message["content"]] if message["content"] else []
    content += [f"<tool_call>\n{text}\n</tool_call>" for text in texts]
    return {"role": message["role"], "content": "\n".join(content)}
