"""SIGKILL at every step of a download: the next start ends ready and right, and no file is left
that is not accounted for. A step is one on the file system inside the cache, or of
progress."""

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest
from fakes.file_server import serve

from nimlite.observe.progress import Progress
from nimlite.profiles.manifest import Artifact
from nimlite.store.cache import Store
from nimlite.store.inventory import damage, entries

CONTENT = bytes(range(256)) * 1000
CHILD = """
import itertools, os, sys
from contextlib import contextmanager
from pathlib import Path
from nimlite.profiles.manifest import Artifact
from nimlite.store.cache import Store
root, uri, last = sys.argv[1], sys.argv[2], int(sys.argv[3])
events = {"open", "os.rename", "os.remove", "os.mkdir", "os.utime"}
numbers = itertools.count()
class Steps:
    def advance(self, amount):
        if next(numbers) == last:
            os.kill(os.getpid(), 9)
    @contextmanager
    def task(self, *a):
        yield self
steps = Steps()
def hook(event, arguments):
    if event in events and str(arguments[0]).startswith(root):
        steps.advance(1)
sys.addaudithook(hook)
Store(Path(root)).fetch(Artifact(uri=uri), steps)
print(next(numbers))
"""


@pytest.mark.parametrize("was_damaged", [False, True])
def test_a_download_that_is_killed_at_any_step(
    tmp_path: Path, progress: Progress, was_damaged: bool
) -> None:
    with serve(CONTENT) as server, ThreadPoolExecutor(2) as threads:
        artifact = Artifact(uri=f"{server.url}/tiny.gguf", sha256=sha256(CONTENT).hexdigest())

        def prepared(name: str) -> Path:
            root = tmp_path / name
            if was_damaged:
                Store(root).fetch(artifact, progress)
                (file,) = root.rglob("tiny.gguf")
                file.write_bytes(CONTENT[:10])
            return root

        def child(root: Path, last: int) -> "subprocess.CompletedProcess[str]":
            command = [sys.executable, "-c", CHILD, str(root), artifact.uri, str(last)]
            return subprocess.run(command, capture_output=True, text=True, timeout=60)

        def killed(last: int) -> Path:
            root = prepared(str(last))
            assert child(root, last).returncode == -signal.SIGKILL
            return root

        num_steps = int(child(prepared("whole"), -1).stdout)
        for root in threads.map(killed, range(num_steps)):
            assert Store(root).fetch(artifact, progress).read_bytes() == CONTENT
            (entry,) = entries(root)
            assert entry.finished and damage(entry) == {}
            known = {entry.lock, entry.path / "tiny.gguf", entry.path / "artifact.json"}
            assert {path for path in root.rglob("*") if path.is_file()} == known
