"""What several rooms' tests share; and pytest puts this folder on the path for `fakes`."""

import os
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    # Triton asks once, when it is imported: its kernels then run in its interpreter.
    os.environ["TRITON_INTERPRET"] = "1"

from fakes.llama import Llama, random_llama

from nimlite.build.checkpoint import open_checkpoint
from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.kernels.cpu.library import Library, load
from nimlite.observe.bars import LineProgress
from nimlite.profiles.load import load_manifests, profiles_directory
from nimlite.store.cache import Store


@pytest.fixture(scope="session")
def cache_root(pytestconfig: pytest.Config) -> Path:
    """A cache directory that outlives the session: all in it has a digest in its name or beside
    it."""
    return pytestconfig.cache.mkdir("nimlite")


@pytest.fixture(scope="session")
def cache_dir(cache_root: Path) -> Path:
    """Where the compiled kernels lie in it."""
    return Store(cache_root).kernels


@pytest.fixture(scope="session")
def library(cache_dir: Path) -> Library:
    return load(cache_dir)


@pytest.fixture
def kernels(library: Library) -> CpuKernels:
    return CpuKernels(library, num_threads=1)


@pytest.fixture(scope="session")
def smollm2_gguf(cache_root: Path) -> Path:
    """The embedded model as it is published, fetched at the first use."""
    manifests = {manifest.family: manifest for manifest in load_manifests(profiles_directory())}
    artifact = manifests["smollm2-135m"].artifact
    return Store(cache_root).fetch(artifact, LineProgress(lambda line: None))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Llama:
    """Random weights, the byte tokenizer."""
    return random_llama(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def smollm2(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Llama:
    """The embedded model."""
    return Llama(open_checkpoint(smollm2_gguf), tmp_path_factory.mktemp("smollm2"))
