"""A YAML file that knows the line of each of its values."""

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nimlite.errors import ManifestError

Location = tuple[str | int, ...]
"""Keys and list positions from the top of the file to a value."""


@dataclass(frozen=True, slots=True)
class Document:
    """A YAML mapping, as plain data and as nodes with line numbers."""

    path: Path
    content: dict[str, Any]
    root: yaml.MappingNode

    @classmethod
    def read(cls, path: Path) -> "Document":
        """Raises ManifestError for what is not a YAML mapping."""
        try:
            text = path.read_text()
            root, content = yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
        except (OSError, UnicodeDecodeError) as error:
            raise ManifestError(f"{path} can't be read: {error}.") from error
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f"{path}:{mark.line + 1}" if mark else str(path)
            problem = getattr(error, "problem", None) or "it can't be parsed"
            raise ManifestError(f"{line}: not YAML: {problem}.") from error
        if not isinstance(root, yaml.MappingNode):
            raise ManifestError(f"{path}:1: a mapping of keys to values is expected.")
        return cls(path, content, root)

    def check_keys(self, known: Mapping[str, Collection[str]]) -> None:
        """Refuse unknown and repeated keys; `known` is by the mapping's, or its list's, name."""
        self._check_keys(self.root, "", (), known)

    def error(self, location: Location, problem: str) -> ManifestError:
        """`problem` with the file, the line and the key that it is about."""
        return self._error_at(self._node(location), location, problem)

    def line(self, location: Location) -> int:
        """Where the value is, or the nearest one above it that there is; from 1."""
        line: int = self._node(location).start_mark.line
        return line + 1

    def _node(self, location: Location) -> yaml.Node:
        node: yaml.Node = self.root
        for part in location:
            child = _child(node, part)
            if child is None:
                break
            node = child
        return node

    def _error_at(self, node: yaml.Node, location: Location, problem: str) -> ManifestError:
        key = ".".join(str(part) for part in location)
        return ManifestError(f"{self.path}:{node.start_mark.line + 1}: {key}: {problem}.")

    def _check_keys(
        self,
        node: yaml.Node,
        name: str,
        location: Location,
        known: Mapping[str, Collection[str]],
    ) -> None:
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self._check_keys(item, name, (*location, index), known)
        elif isinstance(node, yaml.MappingNode) and name in known:
            seen: set[str] = set()
            for key_node, value_node in node.value:
                key = str(key_node.value)
                here = (*location, key)
                if key not in known[name]:
                    nearest = difflib.get_close_matches(key, known[name], n=1, cutoff=0)
                    problem = f"unknown key; the nearest known one is {nearest[0]}"
                    raise self._error_at(key_node, here, problem)
                if key in seen:
                    raise self._error_at(key_node, here, "this key is given twice")
                seen.add(key)
                self._check_keys(value_node, key, here, known)


def _child(node: yaml.Node, part: str | int) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == part), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int):
        return node.value[part] if part < len(node.value) else None
    return None
