"""The JSON Schema of a manifest file, made from the dataclasses.

    python -m nimlite.profiles.schema > profiles/manifest.schema.json

Editors complete and check by it; what nimlite itself says is `load.py`, which knows the lines.
"""

import copy
import json
import sys
from typing import Any

from pydantic import TypeAdapter

from nimlite.profiles.manifest import Manifest

_DERIVED = ("id", "family")
"""Of a profile: they follow from the rest of the file."""


def manifest_schema() -> dict[str, Any]:
    """Of profiles/*.yaml: `Manifest`, with rows that stand for several profiles, and `defaults`."""
    schema = copy.deepcopy(TypeAdapter(Manifest).json_schema())
    definitions = schema["$defs"]
    row = definitions["Profile"]
    row["description"] = "A profile; a list in it stands for one profile each."
    row.pop("required")  # `defaults` may have it
    for name in _DERIVED:
        del row["properties"][name]
    for name, one in row["properties"].items():
        if name != "tags":
            several = {"type": "array", "items": one, "minItems": 1}
            row["properties"][name] = {"anyOf": [one, several]}
    for definition in (*definitions.values(), schema):
        if definition.get("type") == "object":
            definition["additionalProperties"] = False
    schema["properties"]["defaults"] = {"$ref": "#/$defs/Profile"}
    schema["properties"]["profiles"]["minItems"] = 1
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def manifest_schema_text() -> str:
    """As the committed file holds it."""
    return json.dumps(manifest_schema(), indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(manifest_schema_text())
