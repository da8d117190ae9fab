"""SIGKILL at every step of a download, alone and with a second process that waits: the next start
ends ready and right, and no file is left that is not accounted for."""

import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from fakes.file_server import serve

from nimlite.observe.progress import Progress
from nimlite.profiles.manifest import Artifact
from nimlite.store.cache import Store
from nimlite.store.inventory import damage, entries

CONTENT = bytes(range(256)) * 1000
SCRIPT = """
import sys
from pathlib import Path
tests, uri, root, left = sys.argv[1:]
sys.path.insert(0, tests)
from fakes.killed import kill_everywhere
from nimlite.profiles.manifest import Artifact
from nimlite.store.cache import Store
artifact = Artifact(uri=uri)
kill_everywhere(lambda cache, p: Store(cache).fetch(artifact, p), Path(root), Path(left))
"""


@pytest.mark.parametrize("was_damaged", [False, True])
def test_a_download_that_is_killed_at_any_step(
    tmp_path: Path, progress: Progress, was_damaged: bool
) -> None:
    root, left = tmp_path / "killed", tmp_path / "left"
    with serve(CONTENT) as server:
        artifact = Artifact(uri=f"{server.url}/tiny.gguf", sha256=sha256(CONTENT).hexdigest())
        if was_damaged:
            Store(left).fetch(artifact, progress).write_bytes(CONTENT[:10])
        arguments = [Path(__file__).parents[1], artifact.uri, root, left]
        subprocess.run([sys.executable, "-c", SCRIPT, *map(str, arguments)], check=True)
        caches = list(root.iterdir())
        assert len(caches) > 20
        for cache in caches:
            if cache.name.endswith("-done"):
                server.statuses = [500]  # nothing is left to be asked for
            assert Store(cache).fetch(artifact, progress).read_bytes() == CONTENT
            server.statuses = []
            (entry,) = entries(cache)
            assert entry.finished and damage(entry) == {}
            known = {entry.lock, entry.path / "tiny.gguf", entry.path / "artifact.json"}
            assert {path for path in cache.rglob("*") if path.is_file()} == known
