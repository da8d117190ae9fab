"""Kernels built beforehand: which of them a processor gets."""

import platform
from pathlib import Path

import pytest

from nimlite.kernels.cpu import prebuilt
from nimlite.kernels.cpu.library import LibraryUnavailableError
from nimlite.kernels.cpu.prebuilt import LEVELS, load

OURS = [level for level in LEVELS if level.architecture == platform.machine()]


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A build of every level, each an empty file, and a library that only names its file."""
    for level in LEVELS:
        level.path(tmp_path).touch()
    monkeypatch.setattr(prebuilt, "Library", lambda path: path)
    return tmp_path


@pytest.mark.parametrize("level", OURS, ids=lambda level: level.name)
def test_a_processor_gets_the_best_level_that_it_has(
    directory: Path, level: prebuilt.Level
) -> None:
    assert load(directory, level.needs) == (level.path(directory), level.name)
    assert load(directory, level.needs | {"a_flag_of_tomorrow"})[1] == level.name


def test_a_level_that_was_not_built_is_passed_over(directory: Path) -> None:
    best, *_, lowest = OURS
    for level in OURS[:-1]:
        level.path(directory).unlink()
    assert load(directory, best.needs)[1] == lowest.name


def test_none_where_none_was_built(tmp_path: Path) -> None:
    with pytest.raises(LibraryUnavailableError, match="no build of the C"):
        load(tmp_path)


def test_builds_of_other_sources_are_not_taken(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prebuilt, "source_digest", lambda: "other")
    with pytest.raises(LibraryUnavailableError):
        load(directory, OURS[0].needs)
