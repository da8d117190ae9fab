"""Which kernels a machine gets, and why."""

from pathlib import Path

import pytest

from nimlite.kernels import cpu_kernels
from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.kernels.torch_kernels import TorchKernels


def test_cpp_where_it_can_be_built(library: object, cache_dir: Path) -> None:
    selected = cpu_kernels(cache_dir, num_threads=1)
    assert isinstance(selected.kernels, CpuKernels)
    assert selected.reason == "C++ kernels built for this processor, on 1 thread(s)."


def test_torch_where_there_is_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    selected = cpu_kernels(tmp_path, num_threads=1)
    assert isinstance(selected.kernels, TorchKernels)
    assert selected.reason == "Plain torch, several times slower: there is no C++ compiler (g++)."
