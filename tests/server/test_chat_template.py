"""Chat templates, against transformers' own rendering of the same files."""

import asyncio
import json
from pathlib import Path

import pytest
from fakes.tiny_tokenizer import BOS, CHAT_TEMPLATE, EOS, save_tokenizer
from jinja2 import TemplateError
from transformers import AutoTokenizer

from nimlite.errors import ModelError, RequestError
from nimlite.server.chat_template import ChatTemplate
from nimlite.server.conversation import Conversation
from nimlite.server.tokenizer import Tokenizer

MESSAGES = (
    {"role": "system", "content": "Be <brief> & kind."},
    {"role": "user", "content": "  What is 2+2? Grüße\n"},
)
TEMPLATES = {
    "plain": CHAT_TEMPLATE,
    "llama3": """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- endif %}
{{- "<|start|>system\\n" + system_message + date_string }}
{%- if tools is not none %}{{- "tools" }}{% endif %}
{%- for message in messages %}
    {%- if message.role == 'nobody' %}{% continue %}{% endif %}
    {{- '<|start|>' + message['role'] + '\\n' + message['content'] | trim + eos_token }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start|>assistant\\n' }}
{%- endif %}
""",
    "json": "{% for m in messages %}\n  {{ m | tojson }}\n{{ m|tojson(indent=2) }}{% endfor %}\n",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% endfor %}{% if strftime_now('%Y')|int > 2000 %}now{% endif %}{{ unk_token }}",
}


def assert_as_transformers(directory: Path) -> None:
    template = ChatTemplate.load(directory)
    assert template is not None
    expected = AutoTokenizer.from_pretrained(directory).apply_chat_template(
        list(MESSAGES), tokenize=False, add_generation_prompt=True
    )
    assert template.render(Conversation(messages=MESSAGES)) == expected


@pytest.mark.parametrize("name", TEMPLATES)
def test_it_renders_as_transformers_does(tmp_path: Path, name: str) -> None:
    assert_as_transformers(save_tokenizer(tmp_path, chat_template=TEMPLATES[name]))


def test_older_places_of_the_template(tmp_path: Path) -> None:
    directory = save_tokenizer(tmp_path, chat_template=None)
    assert ChatTemplate.load(directory) is None
    file = directory / "tokenizer_config.json"
    config = json.loads(file.read_text())
    config["bos_token"] = {"content": BOS, "special": True}
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": CHAT_TEMPLATE}]
    for chat_template in (CHAT_TEMPLATE, named):
        file.write_text(json.dumps(config | {"chat_template": chat_template}))
        template = ChatTemplate.load(directory)
        assert template is not None and template.render(Conversation(messages=MESSAGES)).startswith(
            f"{BOS}system: Be <br"
        )
    file.write_text(json.dumps(config))
    (directory / "chat_template.json").write_text(json.dumps({"chat_template": "{{ eos_token }}"}))
    template = ChatTemplate.load(directory)
    assert template is not None and template.render(Conversation(messages=MESSAGES)) == EOS


def test_a_template_that_refuses_or_reaches_out() -> None:
    with pytest.raises(TemplateError, match="Tools are unknown"):
        ChatTemplate(CHAT_TEMPLATE, {}).render(
            Conversation(messages=({"role": "tool", "content": ""},))
        )
    with pytest.raises(TemplateError, match="unsafe"):
        ChatTemplate("{{ messages.__class__.__mro__ }}", {}).render(Conversation(messages=MESSAGES))


def test_variables_that_a_template_does_not_expect(tmp_path: Path) -> None:
    directory = save_tokenizer(tmp_path, chat_template="{{ 1 // n }}{{ words[0].x }}")
    tokenizer = Tokenizer.load(directory)
    for kwargs in ({"n": 0}, {"n": "a"}, {"n": 1, "words": []}):
        asked = Conversation(messages=MESSAGES, template_kwargs=kwargs)
        with pytest.raises(RequestError, match="chat template refuses these messages"):
            asyncio.run(tokenizer.encode_chat(asked, max_tokens=99))


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="chat template can't be read: line 1: "):
        ChatTemplate("{% for %}", {})
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer_config\.json can't be read"):
        ChatTemplate.load(tmp_path)
