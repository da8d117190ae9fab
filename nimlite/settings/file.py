"""The config file: YAML, JSON or TOML, one key a setting."""

import difflib
import json
import re
import tomllib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from nimlite.errors import SettingError
from nimlite.settings.fields import FIELDS
from nimlite.settings.given import Given, Origin

_KEYS = tuple(name for name in FIELDS if name != "config_file")
_BROKEN = (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What the parsers raise for texts that they can't read, the YAML one's type constructors too."""


def read_file(path: Path, asked: str) -> dict[str, Given]:
    """The settings in a file, each with its line; null counts as unset.

    A key holds the value itself, or the object that `nimlite config --json` prints for it. Raises
    SettingError with file and line for what is not one mapping of settings. `asked`: who named the
    file, for one that can't be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise SettingError(f"{asked} can't be read: {reason}.") from error
    if path.suffix not in _PARSERS:
        raise SettingError(
            f"{asked} can't be read: its name should end in {', '.join(_PARSERS)}, which says how."
        )
    content, lines = _parse(path, text)
    for key, line in lines:
        if key not in _KEYS:
            nearest = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0)
            raise SettingError(
                f"{path}:{line}: {key} is not a setting; the nearest name is {nearest[0]}. "
                "`nimlite config` lists all."
            )
    for key, times in Counter(key for key, _ in lines).items():
        if times > 1:
            line = [line for k, line in lines if k == key][-1]
            raise SettingError(f"{path}:{line}: {key} is given twice: keep one of them.")
    values = {key: _unwrap(value) for key, value in content.items()}
    return {
        key: Given(Origin.FILE, f"{path}:{line}: {key}", values[key])
        for key, line in lines
        if values[key] not in (None, "")
    }


def _unwrap(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() >= {"value", "origin"}:
        return value["value"]
    return value.strip() if isinstance(value, str) else value


def _parse(path: Path, text: str) -> tuple[Mapping[str, Any], list[tuple[str, int]]]:
    """The content, and each key of its top with its line, repeated ones too."""
    try:
        content, lines = _PARSERS[path.suffix](text)
    except _BROKEN as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else getattr(error, "lineno", None)
        where = f"{path}:{line}" if line else str(path)
        first = str(getattr(error, "problem", None) or error).partition("\n")[0]
        raise SettingError(f"{where}: not {path.suffix[1:].upper()}: {first}.") from error
    if not isinstance(content, dict):
        raise SettingError(f"{path}:1: a mapping of settings to values is expected.")
    return content, lines


def _yaml(text: str) -> tuple[Any, list[tuple[str, int]]]:
    content = yaml.safe_load(text)
    return {} if content is None else content, _yaml_lines(text)


def _json(text: str) -> tuple[Any, list[tuple[str, int]]]:
    # JSON is YAML but for its tabs, which stand between its parts only.
    return json.loads(text), _yaml_lines(text.replace("\t", " "))


def _toml(text: str) -> tuple[Any, list[tuple[str, int]]]:
    content = tomllib.loads(text)
    lines = text.splitlines()

    def line_of(key: str) -> int:
        start = re.compile(rf"""\s*\[?\s*["']?{re.escape(key)}["']?\s*[].=]""")
        return next((n for n, line in enumerate(lines, 1) if start.match(line)), 1)

    return content, [(key, line_of(key)) for key in content]


def _yaml_lines(text: str) -> list[tuple[str, int]]:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        return []
    return [(str(key.value), key.start_mark.line + 1) for key, _ in root.value]


_PARSERS = {".yaml": _yaml, ".yml": _yaml, ".json": _json, ".toml": _toml}
