"""SIGKILL at the steps of a build, alone and with a second builder who waits: the next start ends
ready and right, and no file is left that is not accounted for."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.llama import Llama, random_llama
from test_builder import job_of, target_of

from nimlite.build.builder import build_engine
from nimlite.build.engine_dir import EngineDirectory, open_engine
from nimlite.observe.progress import Progress
from nimlite.store.cache import Store
from nimlite.store.inventory import damage, entries
from nimlite.store.sweep import sweep

SCRIPT = """
import sys
from pathlib import Path
tests, checkpoint, root, left, every = sys.argv[1:]
sys.path[:0] = [tests, f"{tests}/build"]
from fakes.killed import kill_everywhere
from fakes.llama import Llama
from nimlite.build.checkpoint import open_checkpoint
from test_builder_killed import start
llama = Llama(open_checkpoint(Path(checkpoint)), Path(root))
kill_everywhere(lambda *where: start(llama, *where), Path(root), Path(left), int(every))
"""


def start(llama: Llama, cache: Path, progress: Progress) -> EngineDirectory:
    job = job_of(llama)
    home = Store(cache).engine_path("tiny", job.key)
    built = build_engine(job, home, progress, target_of(llama))
    sweep(cache)
    return built


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Llama:
    return random_llama(tmp_path_factory.mktemp("llama"), num_hidden_layers=1)


@pytest.mark.parametrize(("was_damaged", "every"), [(False, 3), (True, 2)])
def test_a_build_that_is_killed_at_any_step(
    tmp_path: Path, llama: Llama, progress: Progress, was_damaged: bool, every: int
) -> None:
    whole = start(llama, tmp_path / "whole", progress)
    left = tmp_path / "left"
    if was_damaged:
        shutil.copytree(tmp_path / "whole", left)
        (weights,) = left.rglob("*.safetensors")
        weights.write_bytes(weights.read_bytes()[:-1])
    root = tmp_path / "killed"
    arguments = [Path(__file__).parents[1], llama.home, root, left, every]
    command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)
    caches = list(root.iterdir())
    assert len(caches) > 10
    files = {path.name for path in whole.path.iterdir()}
    for cache in caches:
        (entry,) = entries(cache)
        assert entry.finished and damage(entry) == {}
        assert open_engine(entry.path).config.weights == whole.config.weights
        known = {entry.lock, *(entry.path / name for name in files)}
        assert {path for path in cache.rglob("*") if path.is_file()} == known
