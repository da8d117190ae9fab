"""How models write their calls, by the names that vLLM and NIM gave the parsers."""

from collections.abc import Callable
from dataclasses import dataclass

from nimlite.server.tool_parsers.json_calls import read_calls
from nimlite.server.tool_parsers.mistral_calls import read_mistral_calls
from nimlite.server.tool_parsers.names import KnownTools
from nimlite.server.tool_parsers.pythonic_calls import read_pythonic_or_json_calls
from nimlite.server.tool_parsers.scanner import Reading, Scanner
from nimlite.server.tool_parsers.xml_calls import read_xml_or_json_calls


@dataclass(frozen=True, slots=True, kw_only=True)
class CallForm:
    """How calls as JSON are written where they are enforced; the reader must understand it."""

    before: str = ""
    between: str = ""
    after: str = ""
    arguments: str = "arguments"
    """The key of a call's arguments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFormat:
    """Marks around calls, and the reader of what is between them."""

    name: str
    read: Callable[[Scanner, KnownTools], Reading[None]]
    form: CallForm
    openers: tuple[str, ...] = ()
    closers: tuple[str, ...] = ()
    separators: tuple[str, ...] = ()
    """Between calls that no mark opens."""
    is_bare: bool = False
    """An answer may be calls without a mark."""
    has_short_ids: bool = False
    """Ids of calls must be nine letters and digits, or the chat template refuses them."""


HERMES = ToolFormat(
    name="hermes",
    read=read_calls,
    form=CallForm(
        before="<tool_call>\n",
        between="\n</tool_call>\n<tool_call>\n",
        after="\n</tool_call>",
    ),
    openers=("<tool_call>",),
    closers=("</tool_call>",),
)
LLAMA3_JSON = ToolFormat(
    name="llama3_json",
    read=read_calls,
    form=CallForm(between="; ", arguments="parameters"),
    openers=("<|python_tag|>", "<|python_start|>"),
    closers=("<|python_end|>",),
    separators=(";", ","),
    is_bare=True,
)
PYTHONIC = ToolFormat(
    name="pythonic",
    read=read_pythonic_or_json_calls,
    form=CallForm(before="[", between=", ", after="]"),
    openers=("<|python_tag|>", "<|python_start|>"),
    closers=("<|python_end|>",),
    is_bare=True,
)
MISTRAL = ToolFormat(
    name="mistral",
    read=read_mistral_calls,
    form=CallForm(before="[TOOL_CALLS][", between=", ", after="]"),
    openers=("[TOOL_CALLS]",),
    has_short_ids=True,
)
GRANITE = ToolFormat(
    name="granite",
    read=read_calls,
    form=CallForm(before="<|tool_call|>[", between=", ", after="]"),
    openers=("<|tool_call|>", "<tool_call>"),
    closers=("</tool_call>",),
)
GRANITE_20B = ToolFormat(
    name="granite-20b-fc",
    read=read_calls,
    form=CallForm(before="<function_call> ", between=" <function_call> "),
    openers=("<function_call>",),
)
PHI4_MINI = ToolFormat(
    name="phi4_mini_json",
    read=read_calls,
    form=CallForm(before="functools[", between=", ", after="]"),
    openers=("<|tool_call|>", "functools"),
    closers=("<|/tool_call|>",),
)
NEMOTRON = ToolFormat(
    name="nemotron",
    read=read_calls,
    form=CallForm(before="<TOOLCALL>[", between=", ", after="]</TOOLCALL>"),
    openers=("<TOOLCALL>",),
    closers=("</TOOLCALL>",),
)
QWEN3_CODER = ToolFormat(
    name="qwen3_coder",
    read=read_xml_or_json_calls,
    form=HERMES.form,
    openers=("<tool_call>",),
    closers=("</tool_call>",),
)
JAMBA = ToolFormat(
    name="jamba",
    read=read_calls,
    form=CallForm(before="<tool_calls>[", between=", ", after="]</tool_calls>"),
    openers=("<tool_calls>",),
    closers=("</tool_calls>",),
)
TOOL_FORMATS = {
    tool_format.name: tool_format
    for tool_format in (
        HERMES,
        LLAMA3_JSON,
        PYTHONIC,
        MISTRAL,
        GRANITE,
        GRANITE_20B,
        PHI4_MINI,
        NEMOTRON,
        QWEN3_CODER,
        JAMBA,
    )
}
"""By name."""

_SIGNS = (
    ("[TOOL_CALLS]", MISTRAL),
    ("func_name1(", PYTHONIC),
    ("<tool_calls>", JAMBA),
    ("<TOOLCALL>", NEMOTRON),
    ("<function=", QWEN3_CODER),
    ("<|/tool_call|>", PHI4_MINI),
    ("functools[", PHI4_MINI),
    ("<|tool_call|>", GRANITE),
    ("<function_call>", GRANITE_20B),
    ("<tool_call>", HERMES),
    ("<|python_tag|>", LLAMA3_JSON),
    ('"parameters": dictionary', LLAMA3_JSON),
    ("ipython", LLAMA3_JSON),
)
"""What a chat template says of the calls that its model writes; the first that is found counts."""


def detect(template: str) -> ToolFormat:
    """The format that a chat template speaks of. Hermes' where it speaks of none: it is what models
    have seen most."""
    return next((found for sign, found in _SIGNS if sign in template), HERMES)
