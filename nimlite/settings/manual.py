"""What there is to know about each setting; `python -m nimlite.settings.manual` prints
docs/settings.md."""

import ast
import functools
import inspect
import itertools
from collections.abc import Mapping

from nimlite.settings import nim
from nimlite.settings.fields import FIELDS, Group, Settings, members
from nimlite.settings.flags import spellings


@functools.cache
def manual() -> Mapping[str, str]:
    """By setting: its docstring, on one line."""
    body = ast.parse(inspect.getsource(Settings)).body[0]
    assert isinstance(body, ast.ClassDef)
    texts = {}
    for declaration, after in itertools.pairwise(body.body):
        if isinstance(declaration, ast.AnnAssign) and isinstance(declaration.target, ast.Name):
            assert isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            texts[declaration.target.id] = " ".join(str(after.value.value).split())
    return {name: texts[name] for name in FIELDS}


def page() -> str:
    """docs/settings.md."""
    return "\n".join((_HEAD, *map(_section, Group), _answers()))


_HEAD = """# Settings

Made from nimlite/settings by `python -m nimlite.settings.manual`; don't edit it here.

The command line beats the environment, that beats the config file (`--config FILE` or
`NIM_CONFIG_FILE`; .yaml, .json or .toml, with the names of this page as keys), that the profile,
and that the defaults. `nimlite config` shows what holds and where it came from. A variable that is
empty counts as unset; two spellings of one setting must agree.
"""


def _section(group: Group) -> str:
    rows = [f"## {group}", "", "| setting | variables | flag | |", "|---|---|---|---|"]
    for name in members(group):
        spelled = ", ".join(f"`{variable}`" for variable in nim.variables(name))
        flags = ", ".join(f"`{option}`" for option in spellings(name))
        rows.append(f"| `{name}` | {spelled} | {flags} | {manual()[name]} |")
    return "\n".join((*rows, ""))


def _answers() -> str:
    rows = [
        "## Other variables of NIM",
        "",
        "One that is set to what nimlite does not do is answered by a warning.",
        "",
        "| variable | |",
        "|---|---|",
    ]
    by_meaning: dict[nim.Meaning, list[str]] = {}
    for variable, meaning in nim.MEANINGS.items():
        if not isinstance(meaning, nim.Spelling):
            by_meaning.setdefault(meaning, []).append(f"`{variable}`")
    rows += [f"| {', '.join(names)} | {_says(meaning)} |" for meaning, names in by_meaning.items()]
    return "\n".join((*rows, ""))


def _says(meaning: nim.Meaning) -> str:
    match meaning:
        case nim.Elsewhere(reader):
            return f"Read by {reader}."
        case nim.NotYet(reason):
            return f"Not yet: {reason}."
        case nim.NoEffect(reason):
            return f"No effect: {reason}."
    raise AssertionError(meaning)


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201
