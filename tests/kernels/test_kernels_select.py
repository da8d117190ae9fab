"""Which kernels a machine gets, and why."""

from pathlib import Path

import pytest
from fakes.llama import random_llama

from nimlite.engine.request import SamplingParams
from nimlite.kernels import cpu_kernels
from nimlite.kernels.cpu import prebuilt
from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.kernels.torch_kernels import TorchKernels


def test_cpp_where_it_can_be_built(library: object, cache_dir: Path) -> None:
    selected = cpu_kernels(cache_dir, num_threads=1, head_dim=64)
    assert isinstance(selected.kernels, CpuKernels)
    assert selected.reason == "C++ kernels built for this processor, on 1 thread(s)."


def test_torch_where_there_is_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    selected = cpu_kernels(tmp_path, num_threads=1, head_dim=64)
    assert isinstance(selected.kernels, TorchKernels)
    assert selected.reason == "Plain torch, several times slower: there is no C++ compiler (g++)."


def test_a_build_made_beforehand_where_there_is_no_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lowest = [level for level in prebuilt.LEVELS if not level.needs]
    monkeypatch.setattr(prebuilt, "LEVELS", lowest)
    monkeypatch.setattr(prebuilt, "DIRECTORY", tmp_path)
    [built] = prebuilt.build_all(tmp_path)
    assert built.parent == tmp_path
    monkeypatch.setenv("PATH", str(tmp_path))
    selected = cpu_kernels(tmp_path, num_threads=1, head_dim=64)
    assert isinstance(selected.kernels, CpuKernels)
    assert selected.reason == (
        f"C++ kernels built for {built.name.rsplit('-', 1)[0]}, on 1 thread(s)."
    )


@pytest.mark.parametrize("head_dim", [20, 272])
def test_torch_where_the_heads_have_another_size(
    cache_dir: Path, tmp_path: Path, head_dim: int
) -> None:
    selected = cpu_kernels(cache_dir, num_threads=1, head_dim=head_dim)
    assert selected.reason == (
        "Plain torch, several times slower: the C++ kernels know heads of 16, 32, 48, … 256 "
        f"dimensions, and this model has heads of {head_dim}."
    )
    llama, prompt = random_llama(tmp_path, head_dim=head_dim), list(b"Four score and")
    greedy = SamplingParams(temperature=0, max_tokens=3)
    [generation] = llama.engine(selected.kernels).generate([prompt], greedy)
    logits_TV = llama.reference_logits([*prompt, *generation.token_ids[:-1]])
    assert generation.token_ids == tuple(logits_TV[len(prompt) - 1 :].argmax(1).tolist())
