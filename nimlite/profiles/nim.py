"""A manifest in NIM's shape, schema version 2: what its tools and operator read."""

from typing import Any

from nimlite.profiles.manifest import Manifest

_SCHEMA_VERSION = "2.0"


def nim_manifest(manifest: Manifest) -> dict[str, Any]:
    """`{schema_version, profile_selection_criteria, profiles: [{id, tags, workspace}]}`, with every
    tag a string and every file by its URI."""
    workspace = {"files": {_destination(manifest): {"uri": manifest.artifact.shown}}}
    return {
        "schema_version": _SCHEMA_VERSION,
        "profile_selection_criteria": "default",
        "profiles": [
            {"id": profile.id, "tags": dict(profile.tags), "workspace": workspace}
            for profile in manifest.profiles
        ],
    }


def _destination(manifest: Manifest) -> str:
    """A file keeps its name; a repository becomes a folder."""
    address, _, file = manifest.artifact.uri.partition("?file=")
    return (file or address.rstrip("/").partition("@")[0]).rpartition("/")[2]
