"""A model whose chat template knows tools and thoughts, and that says what a test wants."""

import dataclasses
from pathlib import Path

from fakes.scripted_engine import ScriptedEngine
from fakes.tiny_model import EOS_ID, encode, make_model
from fakes.tiny_tokenizer import save_tokenizer

from nimlite.server.state import ServedModel
from nimlite.server.tokenizer import Tokenizer

TEMPLATE = (
    "{{ bos_token }}{% for tool in tools or [] %}tool: {{ tool | tojson }}\n{% endfor %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}"
    "{% for call in m.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>"
    "{% endfor %}\n{% endfor %}assistant: {% if enable_thinking %}<think>\n{% endif %}"
)
"""In Hermes' manner."""


class ToolModel:
    """Answers each request with `says`."""

    def __init__(self, directory: Path) -> None:
        self.tokenizer = Tokenizer.load(save_tokenizer(directory, chat_template=TEMPLATE))
        self.says = ""
        self.engine = ScriptedEngine(
            lambda request: [*encode(self.tokenizer, self.says), EOS_ID], eos_id=EOS_ID
        )

    @property
    def served(self) -> ServedModel:
        return dataclasses.replace(make_model(self.engine, self.tokenizer), max_model_len=4096)

    @property
    def prompt(self) -> str:
        """What the latest request asked, as text."""
        token_ids = self.engine.requests[-1].prompt_token_ids
        return self.tokenizer.token_bytes.decode(token_ids, skip_special_tokens=True)
