"""Tools for a model whose chat template has no word for them."""

import json

from fakes.tiny_tokenizer import CHAT_TEMPLATE

from nimlite.server.chat_template import ChatTemplate
from nimlite.server.conversation import Conversation

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": "ä"}}}
MESSAGES = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "42", "tool_call_id": "1"},
)


def test_tools_calls_and_results_become_text() -> None:
    template = ChatTemplate(CHAT_TEMPLATE, {})
    text = template.render(Conversation(messages=MESSAGES, tools=(TOOL,)))
    assert text.startswith("system: Be brief.\n\nYou may call these functions")
    assert f"<tools>\n{json.dumps(TOOL)}\n</tools>" in text
    called = '<tool_call>\n{"name": "f", "arguments": {"a": "ä"}}\n</tool_call>'
    assert text.endswith(
        f"user: hi\nassistant: {called}\nuser: <tool_response>\n42\n</tool_response>\nassistant: "
    )


def test_old_calls_stay_when_no_tool_is_offered() -> None:
    text = ChatTemplate(CHAT_TEMPLATE, {}).render(Conversation(messages=MESSAGES))
    assert text.startswith("system: Be brief.\nuser: hi\nassistant: <tool_call>")


def test_a_template_of_its_own_for_tools() -> None:
    template = ChatTemplate("plain", {}, tool_source="{{ tools[0].function.name }}")
    assert template.render(Conversation(messages=MESSAGES[:2])) == "plain"
    assert template.render(Conversation(messages=MESSAGES[:2], tools=(TOOL,))) == "f"
