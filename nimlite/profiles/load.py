"""Read manifests from profiles/*.yaml. Strict: what is not expected is an error that says where.

A manifest file holds the fields of `Manifest`, and `defaults`: fields that every profile has
unless it says otherwise.
"""

import json
import sysconfig
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

import nimlite
from nimlite.errors import ManifestError
from nimlite.models.spec import ModelSpec, RopeSpec
from nimlite.profiles.document import Document
from nimlite.profiles.manifest import Artifact, Manifest, Profile

_ADAPTER = TypeAdapter(Manifest)
_PROFILE_KEYS = {f.name for f in fields(Profile)} - {"id", "family"}
_KEYS = {
    "": {f.name for f in fields(Manifest)} | {"defaults"},
    "artifact": {f.name for f in fields(Artifact)},
    "spec": {f.name for f in fields(ModelSpec)},
    "rope": {f.name for f in fields(RopeSpec)},
    "profiles": _PROFILE_KEYS,
    "defaults": _PROFILE_KEYS,
}


def profiles_directory() -> Path:
    """The checkout's profiles/ where there is one, else the installed copy."""
    checkout = Path(nimlite.__file__).parents[1] / "profiles"
    if checkout.is_dir():
        return checkout
    return Path(sysconfig.get_path("data")) / "share" / "nimlite" / "profiles"


def load_manifests(directory: Path) -> tuple[Manifest, ...]:
    """All manifests of a directory, by the names of their files."""
    return tuple(load_manifest(path) for path in sorted(directory.glob("*.yaml")))


def load_manifest(path: Path) -> Manifest:
    """Read and check one manifest.

    Raises ManifestError with file, line, key, and what is expected or the nearest known key.
    """
    document = Document.read(path)
    document.check_keys(_KEYS)
    try:
        manifest = _ADAPTER.validate_json(json.dumps(_with_defaults(document), default=str))
    except ValidationError as error:
        raise _explain(document, error.errors(include_url=False)[0]) from None
    return replace(manifest, profiles=tuple(p.identified() for p in manifest.profiles))


def _with_defaults(document: Document) -> dict[str, Any]:
    """The file's content with every profile complete but for its id."""
    content = dict(document.content)
    defaults, profiles = content.pop("defaults", {}), content.get("profiles")
    if not isinstance(defaults, dict):
        raise document.error(("defaults",), "a mapping is expected")
    if not isinstance(profiles, list) or not profiles:
        raise document.error(("profiles",), "a list of at least one profile is expected")
    for index, profile in enumerate(profiles):
        if not isinstance(profile, dict):
            raise document.error(("profiles", index), "a mapping is expected")
    common = {**defaults, "id": "", "family": content.get("family")}
    content["profiles"] = [{**common, **profile} for profile in profiles]
    return content


def _explain(document: Document, error: Mapping[str, Any]) -> ManifestError:
    location = error["loc"]
    if error["type"] == "missing":
        return document.error(location, "this key is missing")
    if location[0] == "profiles" and location[-1] not in document.content["profiles"][location[1]]:
        location = ("defaults", *location[2:])
    expected = str(error["msg"]).replace("Input should be", "expected is")
    return document.error(location, f"{expected}, not {error['input']!r}")
