"""What a chat template is given: the messages, the tools, and what else it may be told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """In the words that chat templates have for it."""

    messages: tuple[Mapping[str, Any], ...]
    """Each with `role` and `content`, a string; an assistant's may have `tool_calls`."""
    tools: tuple[Mapping[str, Any], ...] = ()
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Further variables of the template, as `enable_thinking`."""
    continues_last: bool = False
    """The last message is an assistant's, and the answer goes on with it."""

    @property
    def has_tools(self) -> bool:
        """Whether tools are offered, or have been called."""
        return bool(self.tools) or any("tool_calls" in message for message in self.messages)

    @property
    def num_chars(self) -> int:
        """About how long it is."""
        texts = (message["content"] for message in self.messages)
        return sum(map(len, texts)) + 256 * len(self.tools)


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedPrompt:
    """A conversation as the model reads it."""

    text: str
    token_ids: tuple[int, ...]
