"""What is said about the settings, and that it is true."""

from pathlib import Path

from nimlite.settings.fields import FIELDS, Group, members
from nimlite.settings.manual import manual, page

ROOT = Path(__file__).parents[2]


def test_every_setting_has_its_manual_and_its_group() -> None:
    assert all(manual()[name].endswith(".") for name in FIELDS)
    assert sorted(FIELDS) == sorted(name for group in Group for name in members(group))


def test_the_page_is_current() -> None:
    written = (ROOT / "docs" / "settings.md").read_text()
    assert written == page(), "python -m nimlite.settings.manual > docs/settings.md"
