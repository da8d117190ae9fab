"""huggingface_hub against a hub of our own; in a process of its own, as HF_* are read at import."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.hub_server import FILES, hub_server

SCRIPT = """
import sys
from pathlib import Path
from nimlite.errors import NimliteError
from nimlite.observe.bars import LineProgress
from nimlite.profiles.manifest import Artifact
from nimlite.store.cache import Store
try:
    print(Store(Path(sys.argv[1])).fetch(Artifact(uri=sys.argv[2]), LineProgress(lambda line:
    None)))
except NimliteError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = hub_server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(root: Path, uri: str, endpoint: str, **environ: str) -> str:
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(root / "hf"), **environ}
    command = [sys.executable, "-c", SCRIPT, str(root), uri]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return result.stdout.strip()


def test_a_repository_and_its_warm_cache(tmp_path: Path, endpoint: str) -> None:
    path = Path(fetch(tmp_path, "hf://org/tiny@main", endpoint))
    assert {p.name for p in path.iterdir()} == {"artifact.json", "config.json", "model.safetensors"}
    assert (path / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    (path / "model.safetensors").write_bytes(b"damaged")
    again = fetch(tmp_path, "hf://org/tiny@main", endpoint)
    assert Path(again, "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert fetch(tmp_path, "hf://org/tiny@main", "http://127.0.0.1:1") == str(path)


def test_one_file(tmp_path: Path, endpoint: str) -> None:
    path = Path(fetch(tmp_path, "hf://org/tiny?file=onnx/model.json", endpoint))
    assert path.name == "model.json" and path.read_bytes() == b"{}"


@pytest.mark.parametrize(
    ("uri", "environ", "sentence"),
    [
        ("hf://org/none", {}, "There is no such repository, or it is private"),
        ("hf://org/gated", {}, "Its licence must be accepted first"),
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
