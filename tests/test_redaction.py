"""Secrets in addresses are cut out wherever an address is shown."""

import json
from pathlib import Path

import pytest
from fakes.command import nimlite
from fakes.file_server import serve
from hypothesis import given
from hypothesis import strategies as st

from nimlite.redaction import public


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:secret@host/a.gguf?sig=secret#secret", "https://host/a.gguf"),
        ("MODEL=http://host?secret and b", "MODEL=http://host and b"),
        ("s3://me:secret@host/a?file=b", "s3://host/a?file=b"),
        ("hf://org/name@main?file=a.gguf", "hf://org/name@main?file=a.gguf"),
        ("/models/a@b?c", "/models/a@b?c"),
    ],
)
def test_what_may_be_shown(text: str, shown: str) -> None:
    assert public(text) == shown


@given(st.text(st.characters(categories=["L", "N"]), min_size=8), st.sampled_from("/?#"))
def test_no_password_is_left(password: str, end: str) -> None:
    assert f":{password}" not in public(f"see https://me:{password}@host{end}x")


def test_a_password_appears_nowhere(tmp_path: Path) -> None:
    with serve(b"no model") as server:
        address = server.url.replace("://", "://me:secret@") + "/tiny.gguf?sig=secret"
        file = tmp_path / "a.json"
        file.write_text(json.dumps({"model_path": address}))
        for command in (["config"], ["config", "--json"], ["serve", "--dry-run"], ["serve", "b"]):
            done = nimlite(*command, "--config", str(file), cache=tmp_path, NIM_LOG_LEVEL="DEBUG")
            assert "secret" not in done.stdout + done.stderr, command
        both = nimlite("serve", address, "--model", "c", cache=tmp_path)
    assert "contradict" in both.stderr and "secret" not in both.stderr
    receipts = [p.read_text() for p in tmp_path.rglob("artifact.json")]
    assert receipts and not any("secret" in text for text in receipts)
