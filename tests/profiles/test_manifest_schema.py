"""The schema says what the loader says: of the committed manifests, and of wrong ones."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from nimlite.profiles.load import profiles_directory
from nimlite.profiles.schema import manifest_schema, manifest_schema_text

FILES = sorted(profiles_directory().glob("*.yaml"))
VALIDATOR = jsonschema.Draft202012Validator(manifest_schema())


def test_the_committed_schema_is_current() -> None:
    committed = (profiles_directory() / "manifest.schema.json").read_text()
    assert committed == manifest_schema_text(), (
        "make it anew: python -m nimlite.profiles.schema > profiles/manifest.schema.json"
    )
    jsonschema.Draft202012Validator.check_schema(json.loads(committed))


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_every_manifest_is_valid_and_names_its_schema(file: Path) -> None:
    text = file.read_text()
    assert text.startswith("# yaml-language-server: $schema=manifest.schema.json\n")
    VALIDATOR.validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("license:", "licence:", "'licence' was unexpected"),
        ("int8, bf16", "int7, bf16", "is not valid under any of the given schemas"),
        ("  head_dim: 64\n", "", "'head_dim' is a required property"),
        ("num_layers: 30", "num_layers: 0", "0 is less than or equal to the minimum of 0"),
        ("{device: cpu", "{id: a, device: cpu", "'id' was unexpected"),
    ],
)
def test_a_wrong_manifest_is_refused(old: str, new: str, message: str) -> None:
    text = (profiles_directory() / "smollm2-135m.yaml").read_text()
    assert old in text
    errors = [e.message for e in VALIDATOR.iter_errors(yaml.safe_load(text.replace(old, new)))]
    assert any(message in error for error in errors), errors
