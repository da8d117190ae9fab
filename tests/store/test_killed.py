"""SIGKILL at the steps of a download, alone and with a second process that waits: the next start
ends ready and right, and no file is left that is not accounted for."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest
from fakes.file_server import serve
from fakes.hub_server import FILES, serve_hub

from nimlite.observe.progress import SILENT
from nimlite.profiles.manifest import Artifact
from nimlite.store.cache import Store
from nimlite.store.inventory import damage, entries

CONTENT = bytes(range(256)) * 1000
SCRIPT = """
import sys
from pathlib import Path
tests, uri, sha256, root, left, every = sys.argv[1:]
sys.path.insert(0, tests)
from fakes.killed import kill_everywhere
from nimlite.profiles.manifest import Artifact
from nimlite.store.cache import Store
import huggingface_hub
artifact = Artifact(uri=uri, sha256=sha256 or None)
fetch = lambda cache, progress: Store(cache).fetch(artifact, progress)
kill_everywhere(fetch, Path(root), Path(left), int(every))
"""


@contextmanager
def one_file() -> Iterator[tuple[Artifact, dict[str, bytes], dict[str, str]]]:
    """What is fetched, what it holds, and the environment in which it is found."""
    with serve(CONTENT) as server:
        uri = f"{server.url}/tiny.gguf"
        yield Artifact(uri=uri, sha256=sha256(CONTENT).hexdigest()), {"tiny.gguf": CONTENT}, {}


@contextmanager
def repository() -> Iterator[tuple[Artifact, dict[str, bytes], dict[str, str]]]:
    files = {name: FILES[name] for name in ("config.json", "model.safetensors")}
    files["1_Pooling.config.json"] = FILES["1_Pooling/config.json"]
    with serve_hub() as endpoint:
        yield Artifact(uri="hf://org/tiny"), files, {"HF_ENDPOINT": endpoint}


@pytest.mark.parametrize(
    ("served", "was_damaged", "every"),
    [(one_file, False, 1), (one_file, True, 2), (repository, False, 6)],
)
def test_a_download_that_is_killed_at_any_step(
    tmp_path: Path, served: object, was_damaged: bool, every: int
) -> None:
    assert callable(served)
    root, left = tmp_path / "killed", tmp_path / "left"
    with served() as (artifact, files, environ):

        def run(root: Path) -> None:
            words = [
                Path(__file__).parents[1],
                artifact.uri,
                artifact.sha256 or "",
                root,
                left,
                every,
            ]
            command = [sys.executable, "-c", SCRIPT, *map(str, words)]
            subprocess.run(command, env=os.environ | environ, check=True)

        run(root)
        if was_damaged:
            (root / "1").rename(left)
            next(left.rglob([*files][-1])).write_bytes(b"damaged")
            shutil.rmtree(root)
            run(root)
    caches = list(root.iterdir())
    assert len(caches) > 8
    for cache in caches:
        Store(cache, offline=True).fetch(artifact, SILENT)
        (entry,) = entries(cache)
        assert entry.finished and damage(entry) == {}
        assert {name: (entry.path / name).read_bytes() for name in files} == files
        known = {entry.lock, *(entry.path / name for name in (*files, "artifact.json"))}
        assert {path for path in cache.rglob("*") if path.is_file()} == known
