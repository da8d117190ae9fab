"""The house rules that a test can hold."""

import ast
import re
from pathlib import Path

import pytest

from nimlite.settings.nim import is_known

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "nimlite").rglob("*.py"))
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def module_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_variable_of_the_documents_exists() -> None:
    for document in DOCUMENTS:
        mentioned = set(re.findall(r"NIM_[A-Z_]*[A-Z](?:_\*)?", document.read_text()))
        assert {name for name in mentioned if not is_known(name)} == set(), document


def test_every_link_of_the_documents_leads_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document}: {target}"


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_modules_are_short_and_say_what_they_are(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= 400
    if path.stem != "__init__" and path.stem != "__main__":
        assert ast.get_docstring(ast.parse(source))
