"""huggingface_hub against a hub of our own; in a process of its own, as HF_* are read at import."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.hub_server import FILES, Hub, serve_hub

SCRIPT = """
import os, sys
from pathlib import Path
from nimlite.errors import NimliteError
from nimlite.observe.bars import LineProgress
from nimlite.profiles.manifest import Artifact
from nimlite.store.cache import Store
progress = LineProgress(lambda line: None)
store = Store(Path(sys.argv[1]), offline="NIM_OFFLINE" in os.environ)
artifact = Artifact(uri=sys.argv[2])
try:
    if config := os.environ.get("CONFIG_ONLY"):
        print(store.fetch_file(artifact, "config.json", progress))
    else:
        print(store.fetch(artifact, progress))
except NimliteError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with serve_hub() as endpoint:
        yield endpoint


def environment(root: Path, endpoint: str, **environ: str) -> dict[str, str]:
    return os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(root / "hf"), **environ}


def fetch(root: Path, uri: str, endpoint: str, **environ: str) -> str:
    command = [sys.executable, "-c", SCRIPT, str(root), uri]
    result = subprocess.run(
        command,
        env=environment(root, endpoint, **environ),
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout.strip()


def test_a_repository_and_its_warm_cache(tmp_path: Path, endpoint: str) -> None:
    path = Path(fetch(tmp_path, "hf://org/tiny@main", endpoint))
    assert {p.name for p in path.iterdir()} == {
        "1_Pooling.config.json",
        "artifact.json",
        "config.json",
        "model.safetensors",
    }
    assert (path / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    (path / "model.safetensors").write_bytes(b"damaged")
    again = fetch(tmp_path, "hf://org/tiny@main", endpoint)
    assert Path(again, "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert fetch(tmp_path, "hf://org/tiny@main", "http://127.0.0.1:1") == str(path)


def test_one_file(tmp_path: Path, endpoint: str) -> None:
    path = Path(fetch(tmp_path, "hf://org/tiny?file=onnx/model.json", endpoint))
    assert path.name == "model.json" and path.read_bytes() == b"{}"


def test_files_are_fetched_at_once(tmp_path: Path, endpoint: str) -> None:
    Hub.meeting = threading.Barrier(3, timeout=60)
    try:
        path = Path(fetch(tmp_path, "hf://org/tiny", endpoint))
    finally:
        Hub.meeting = None
    assert (path / "model.safetensors").read_bytes() == FILES["model.safetensors"]


BROKEN = """
import sys
from pathlib import Path
from nimlite.errors import UnreachableError
from nimlite.observe.progress import SILENT
from nimlite.store.hub import HubSource
source = HubSource("org/tiny", None, None, 2, retry_delays_s=())
stage = Path(sys.argv[1])
try:
    source.download(stage, None, SILENT)
    print("whole")
except UnreachableError as error:
    print(error, *source.missing(stage))
"""


def test_a_broken_download_goes_on_where_it_ended(tmp_path: Path, endpoint: str) -> None:
    def download() -> str:
        command = [sys.executable, "-c", BROKEN, str(tmp_path)]
        return subprocess.run(
            command, env=environment(tmp_path, endpoint), capture_output=True, text=True, check=True
        ).stdout

    Hub.break_after[:], Hub.ranges[:] = [70_000], []
    told = download()
    assert "the next start goes on where this one ended" in told
    assert told.endswith("model.safetensors (0.1 MB)\n")
    assert download() == "whole\n"
    assert Hub.ranges[-1] == "model.safetensors bytes=65536-" and len(Hub.ranges) == 4
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"1_Pooling.config.json", "config.json", "model.safetensors"}


def test_one_file_is_taken_from_the_cached_repository(tmp_path: Path, endpoint: str) -> None:
    nowhere = "http://127.0.0.1:1"
    alone = fetch(tmp_path, "hf://org/tiny", endpoint, CONFIG_ONLY="1")
    whole = Path(fetch(tmp_path, "hf://org/tiny", endpoint))
    assert Path(alone).parent != whole
    assert fetch(tmp_path, "hf://org/tiny", nowhere, CONFIG_ONLY="1") == str(whole / "config.json")
    (whole / "config.json").write_text("damaged")
    assert fetch(tmp_path, "hf://org/tiny", nowhere, CONFIG_ONLY="1") == alone


def test_without_a_network_all_that_is_missing_is_told(tmp_path: Path, endpoint: str) -> None:
    way_out = (
        " On a machine with a network, run `nimlite download-to-cache hf://org/tiny@v1 --cache-path"
        f" nimlite-cache`, and copy what is then in nimlite-cache into {tmp_path} here; or run `hf"
        " download org/tiny --revision v1 --local-dir tiny`, and serve what it made."
    )
    offline = (
        "DownloadError hf://org/tiny@v1 is not whole in the cache, and the network is not to be"
    )
    cold = (
        f" used. Missing in the cache {tmp_path}: config.json, all *.safetensors, the tokenizer's"
        f" files.{way_out}"
    )
    for flags in ({}, {"CONFIG_ONLY": "1"}):
        assert (
            fetch(tmp_path, "hf://org/tiny@v1", endpoint, NIM_OFFLINE="1", **flags)
            == offline + cold
        )
    broken = fetch(tmp_path, "hf://org/tiny@v1", "http://127.0.0.1:1")
    assert broken.startswith("DownloadError hf://org/tiny@v1 could not be fetched (")
    assert broken.endswith(cold.removeprefix(" used."))

    whole = Path(fetch(tmp_path, "hf://org/tiny@v1", endpoint))
    (whole / "model.safetensors").unlink()
    told = f" used. Missing in the cache {tmp_path}: model.safetensors.{way_out}"
    assert fetch(tmp_path, "hf://org/tiny@v1", endpoint, NIM_OFFLINE="1") == offline + told

    listing = whole.rename(whole.with_name(f"{whole.name}.part")) / ".listing"
    listing.mkdir()
    (listing / "files.json").write_text('{"config.json": 39, "model.safetensors": 7200000}')
    told = f" used. Missing in the cache {tmp_path}: model.safetensors (7.2 MB).{way_out}"
    assert fetch(tmp_path, "hf://org/tiny@v1", endpoint, NIM_OFFLINE="1") == offline + told


@pytest.mark.parametrize(
    ("uri", "environ", "sentence"),
    [
        ("hf://org/none", {}, "There is no such repository, or it is private"),
        ("hf://org/gated", {}, "Its licence must be accepted first"),
        ("hf://org/closed", {}, "Its licence must be accepted first"),
        ("hf://org/tiny@none", {}, "is there, but has no revision 'none': check the part after"),
        ("hf://org/tiny?file=no.gguf", {}, "has no file no.gguf"),
        ("hf://org/tiny", {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ("hf://org/tiny", {"HF_ENDPOINT": "http://127.0.0.1:1"}, "Check the network"),
    ],
)
def test_refusals_are_told(
    tmp_path: Path, endpoint: str, uri: str, environ: dict[str, str], sentence: str
) -> None:
    answer = fetch(tmp_path, uri, environ.pop("HF_ENDPOINT", endpoint), **environ)
    assert answer.startswith("DownloadError") and sentence in answer


def test_a_disk_without_room_is_told_before(tmp_path: Path, endpoint: str) -> None:
    answer = fetch(tmp_path, "hf://org/huge", endpoint)
    assert answer.startswith("ArtifactError hf://org/huge takes 3,000,000,000,000 MB, and the disk")
    assert not list(tmp_path.rglob("*.safetensors*"))
