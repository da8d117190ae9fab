"""Read manifests from profiles/*.yaml. Strict: what is not expected is an error that says where.

A manifest file holds the fields of `Manifest`, and `defaults`: fields that every profile has
unless it says otherwise. A list in a profile stands for one profile each (`matrix.py`).
"""

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from nimlite.data_files import data_directory
from nimlite.errors import ManifestError
from nimlite.profiles.document import Document
from nimlite.profiles.manifest import Artifact, Manifest, Profile
from nimlite.profiles.matrix import expand
from nimlite.profiles.shape import ModelShape

_ADAPTER = TypeAdapter(Manifest)
_PROFILE_KEYS = {f.name for f in fields(Profile)} - {"id", "family"}
_KEYS = {
    "": {f.name for f in fields(Manifest)} | {"defaults"},
    "artifact": {f.name for f in fields(Artifact)},
    "shape": {f.name for f in fields(ModelShape)},
    "profiles": _PROFILE_KEYS,
    "defaults": _PROFILE_KEYS,
}


def profiles_directory() -> Path:
    """The checkout's profiles/ where there is one, else the installed copy."""
    return data_directory("profiles")


def load_manifests(directory: Path) -> tuple[Manifest, ...]:
    """All manifests of a directory, by the names of their files."""
    return tuple(load_manifest(path) for path in sorted(directory.glob("*.yaml")))


def load_manifest(path: Path) -> Manifest:
    """Read and check one manifest.

    Raises ManifestError with file, line, key, and what is expected or the nearest known key.
    """
    document = Document.read(path)
    document.check_keys(_KEYS)
    content, rows = _expanded(document)
    try:
        manifest = _ADAPTER.validate_json(json.dumps(content, default=str))
    except ValidationError as error:
        raise _explain(document, error.errors(include_url=False)[0], rows) from None
    identified = tuple(profile.identified() for profile in manifest.profiles)
    _check_names(document, identified, rows)
    return replace(manifest, profiles=identified)


def _expanded(document: Document) -> tuple[dict[str, Any], list[int]]:
    """The file's content with every profile complete but for its id, and the row of each."""
    content = dict(document.content)
    defaults, rows = content.pop("defaults", {}), content.get("profiles")
    if not isinstance(defaults, dict):
        raise document.error(("defaults",), "a mapping is expected")
    if not isinstance(rows, list) or not rows:
        raise document.error(("profiles",), "a list of at least one profile is expected")
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            raise document.error(("profiles", index), "a mapping is expected")
    common = {**defaults, "id": "", "family": content.get("family")}
    expanded = [(i, one) for i, row in enumerate(rows) for one in expand({**common, **row})]
    content["profiles"] = [profile for _, profile in expanded]
    return content, [index for index, _ in expanded]


def _check_names(document: Document, profiles: tuple[Profile, ...], rows: list[int]) -> None:
    """Two profiles of a name could not be told apart."""
    seen: dict[str, int] = {}
    for profile, row in zip(profiles, rows, strict=True):
        if profile.name in seen:
            line = document.line(("profiles", seen[profile.name]))
            problem = f"{profile.name} is there already, by line {line}"
            raise document.error(("profiles", row), problem)
        seen[profile.name] = row


def _explain(document: Document, error: Mapping[str, Any], rows: list[int]) -> ManifestError:
    location = error["loc"]
    if location[0] == "profiles":
        key = location[2:]
        row = rows[location[1]]
        location = ("profiles", row, *key)
        if key and key[0] not in document.content["profiles"][row] and error["type"] != "missing":
            location = ("defaults", *key)
    if error["type"] == "missing":
        return document.error(location, "this key is missing")
    expected = str(error["msg"]).replace("Input should be", "expected is")
    return document.error(location, f"{expected}, not {error['input']!r}")
