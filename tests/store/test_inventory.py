import dataclasses
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nimlite.errors import UserError
from nimlite.store.block_digest import digest_blocks
from nimlite.store.digest import digest_files
from nimlite.store.inventory import ENGINE_FILE, Entry, Kind, damage, entries, evict, find, remove
from nimlite.store.lock import file_lock
from nimlite.store.receipt import RECEIPT_FILE, Receipt

USER = """
import sys
from pathlib import Path
from nimlite.store.inventory import use
print(use(Path(sys.argv[1]), sys.argv[2]), flush=True)
sys.stdin.read()
"""


def make_artifact(root: Path, name: str = "org-tiny-1234") -> Path:
    home = root / "artifacts" / name
    home.mkdir(parents=True)
    (home / "tiny.gguf").write_bytes(b"w" * 1000)
    Receipt("hf://org/tiny", digest_files(home, ["tiny.gguf"])).write(home)
    home.with_name(f"{name}.lock").touch()
    return home


def make_engine(root: Path, key: str, *, used: float) -> Path:
    """Sealed as a build does; `used`: UNIX seconds."""
    home = root / "engines" / "tiny" / key
    home.mkdir(parents=True)
    (home / "tokenizer.json").write_text("{}")
    (home / "rank0.safetensors").write_bytes(b"w" * 1000)
    digests = digest_files(home, ["tokenizer.json"])
    files = {name: dataclasses.asdict(digest) for name, digest in digests.items()}
    weights = {"rank0.safetensors": dataclasses.asdict(digest_blocks(home / "rank0.safetensors"))}
    (home / ENGINE_FILE).write_text(json.dumps({"files": files, "weights": weights}))
    home.with_name(f"{key}.lock").touch()
    os.utime(home / ENGINE_FILE, (used, used))
    return home


def user_of(home: Path, stamp: str = ENGINE_FILE) -> "subprocess.Popen[bytes]":
    """A process that uses it until its input ends."""
    command = [sys.executable, "-c", USER, str(home), stamp]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"True\n"
    return process


def names(found: list[Entry]) -> list[str]:
    return [entry.name for entry in found]


def test_all_that_lies_in_the_cache_is_listed(tmp_path: Path) -> None:
    assert entries(tmp_path / "nothing") == []
    make_artifact(tmp_path)
    (tmp_path / "artifacts" / "other-5678.part").mkdir()
    engine = make_engine(tmp_path, "abcd", used=1000)
    (engine.parent / "ef.building").mkdir()
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "kernels-1.so").write_bytes(b"elf")
    found = entries(tmp_path)
    assert [(entry.kind, entry.name, entry.finished) for entry in found] == [
        (Kind.ARTIFACT, "org-tiny-1234", True),
        (Kind.ARTIFACT, "other-5678.part", False),
        (Kind.ENGINE, "tiny/abcd", True),
        (Kind.ENGINE, "tiny/ef.building", False),
        (Kind.KERNELS, "kernels-1.so", True),
    ]
    assert not any(entry.in_use for entry in found)
    assert found[2].last_use == 1000 and found[2].size == sum(
        file.stat().st_size for file in engine.iterdir()
    )
    for entry in found:
        remove(tmp_path, entry)
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left == [tmp_path / "kernels" / "kernels.lock"]


def test_names(tmp_path: Path) -> None:
    for key in ("abcd", "abce"):
        make_engine(tmp_path, key, used=1)
    found = entries(tmp_path)
    assert find(found, "tiny/abcd") == find(found, "abcd") == found[0]
    assert find(found, "abce") == found[1]
    with pytest.raises(
        UserError, match=r"'abc' names several .*: tiny/abcd, tiny/abce\. Give more"
    ):
        find(found, "abc")
    with pytest.raises(UserError, match=r"Nothing in the cache is named 'x': `nimlite cache ls`"):
        find(found, "x")


def test_what_a_process_uses_is_left_alone(tmp_path: Path) -> None:
    engine, artifact = make_engine(tmp_path, "abcd", used=1), make_artifact(tmp_path)
    with user_of(engine) as one, user_of(artifact, RECEIPT_FILE) as other:
        found = entries(tmp_path)
        assert [entry.in_use for entry in found] == [True, True]
        assert found[1].last_use > 1
        for entry in found:
            with pytest.raises(UserError, match="is in use by a running process, and was left"):
                remove(tmp_path, entry)
        one.communicate()
        other.communicate()
    assert [entry.in_use for entry in entries(tmp_path)] == [False, False]


def test_what_is_being_made_is_left_alone(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, "abcd", used=1)
    (engine.parent / "abcd.building").mkdir()
    with file_lock(engine.with_name("abcd.lock")):
        for entry in entries(tmp_path):
            assert entry.in_use
            with pytest.raises(UserError, match="is in use by a running process"):
                remove(tmp_path, entry)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    artifact, engine = make_artifact(tmp_path), make_engine(tmp_path, "abcd", used=1)
    found = entries(tmp_path)
    assert [damage(entry) for entry in found] == [{}, {}]
    (artifact / "tiny.gguf").write_bytes(b"x" * 1000)
    (engine / "rank0.safetensors").write_bytes(b"w" * 999)
    (engine / "tokenizer.json").unlink()
    assert damage(found[0]).keys() == {"tiny.gguf"}
    assert damage(found[1]) == {
        "tokenizer.json": "it is missing",
        "rank0.safetensors": "it has 999 bytes instead of 1,000",
    }
    (artifact / RECEIPT_FILE).write_text("{")
    (engine / ENGINE_FILE).write_text("{}")
    assert [damage(entry).popitem()[0] for entry in found] == [RECEIPT_FILE, ENGINE_FILE]


def test_the_longest_unused_engines_make_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_artifact(tmp_path)
    for number, key in enumerate(("old", "older", "new")):
        make_engine(tmp_path, key, used=[200, 100, 300][number])
    sizes = {entry.name: entry.size for entry in entries(tmp_path)}
    evict(tmp_path, sum(sizes.values()))
    assert len(entries(tmp_path)) == 4
    evict(tmp_path, sum(sizes.values()) - 1)
    assert "tiny/older" not in names(entries(tmp_path)) and len(entries(tmp_path)) == 3
    with user_of(tmp_path / "engines" / "tiny" / "old"), caplog.at_level(logging.WARNING):
        evict(tmp_path, 1)
        assert names(entries(tmp_path)) == ["org-tiny-1234", "tiny/old"]
    assert "more than the 1 that it may, and no engine in it is unused" in caplog.text
    assert {path.name for path in (tmp_path / "engines" / "tiny").iterdir()} == {"old", "old.lock"}
