"""A model's chat template: Jinja, rendered as transformers' `apply_chat_template` does.

Written here because importing transformers for it would take most of a start.
"""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from nimlite.errors import ModelError
from nimlite.server.conversation import Conversation
from nimlite.server.tool_prompt import with_described_tools

_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token")


class ChatTemplate:
    """A template and the special tokens that it may name."""

    def __init__(
        self, source: str, special_tokens: Mapping[str, str], *, tool_source: str | None = None
    ) -> None:
        """`tool_source`: the template for conversations with tools, where there are two.

        Raises ModelError for a template that is no Jinja.
        """
        self.sources = (source, tool_source or source)
        self._template, self._tool_template = map(_compile, self.sources)
        self._special_tokens = dict(special_tokens)
        self._knows_tools = re.search(r"\btools\b", self.sources[1]) is not None

    @classmethod
    def load(cls, directory: Path) -> "ChatTemplate | None":
        """From a tokenizer's files; None where they hold none. Raises ModelError."""
        config = json_of(directory / "tokenizer_config.json")
        sources = _sources(directory, config)
        if "default" not in sources:
            return None
        named = {**json_of(directory / "special_tokens_map.json"), **config}
        texts = {name: _text(named[name]) for name in _SPECIAL if named.get(name)}
        return cls(sources["default"], texts, tool_source=sources.get("tool_use"))

    def render(self, conversation: Conversation) -> str:
        """The conversation, open for the assistant's turn. Raises TemplateError, TypeError and
        whatever else the template does wrong with it."""
        if conversation.has_tools and not self._knows_tools:
            conversation = with_described_tools(conversation)
        template = self._tool_template if conversation.tools else self._template
        given = {
            "add_generation_prompt": True,
            **conversation.template_kwargs,
            **self._special_tokens,
            "messages": [dict(message) for message in conversation.messages],
            "tools": [dict(tool) for tool in conversation.tools] or None,
            "documents": None,
        }
        if not conversation.continues_last:
            return template.render(given)
        text = template.render(given | {"add_generation_prompt": False})
        return _cut_behind(text, conversation.messages[-1]["content"])


def _cut_behind(text: str, content: str) -> str:
    """The rendered text without what the template puts behind the last message's content."""
    for last in (content, content.strip()):
        start = text.rfind(last) if last else -1
        if start >= 0:
            return text[:start] + last
    raise TemplateError("the last message has no content here that an answer could go on with")


def _compile(source: str) -> Template:
    try:
        return _environment().from_string(source)
    except TemplateSyntaxError as error:
        raise ModelError(
            f"The model's chat template can't be read: line {error.lineno}: {error.message}."
        ) from error


def _sources(directory: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """By name. A file of its own comes before the configuration, as transformers looks."""
    file = directory / "chat_template.jinja"
    if file.is_file():
        return {"default": file.read_text(encoding="utf-8")}
    found = json_of(directory / "chat_template.json").get("chat_template")
    found = found or config.get("chat_template")
    if isinstance(found, list):
        return {entry["name"]: entry["template"] for entry in found}
    return {"default": found} if found else {}


def _text(token: str | Mapping[str, Any]) -> str:
    return token if isinstance(token, str) else str(token["content"])


def json_of(file: Path) -> dict[str, Any]:
    """Empty where there is no such file."""
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ModelError(f"{file} can't be read ({error}): copy it again.") from error
    return content


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _to_json(value: object, ensure_ascii: bool = False, **options: Any) -> str:
    """Jinja's own escapes what HTML would take for tags."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


class _Generation(Extension):
    """{% generation %} … {% endgeneration %}: marks what an assistant wrote, for training. Here
    its content is all that counts."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own form

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
