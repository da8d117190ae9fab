"""Which kernels serve on this machine."""

from dataclasses import dataclass
from pathlib import Path

import torch

from nimlite.kernels.base import Kernels
from nimlite.kernels.cpu import prebuilt
from nimlite.kernels.cpu.cpu_kernels import MAX_HEAD_DIM, CpuKernels, supports_heads
from nimlite.kernels.cpu.library import Library, LibraryUnavailableError, load
from nimlite.kernels.torch_kernels import TorchKernels


@dataclass(frozen=True, slots=True)
class SelectedKernels:
    """The kernels and why they were chosen, in a sentence."""

    kernels: Kernels
    reason: str


def cpu_kernels(cache_dir: Path, num_threads: int, head_dim: int) -> SelectedKernels:
    """The C++ kernels: built here, else beforehand for a processor like this one; or plain torch
    where there are none or they do not know the model's heads.

    Sets torch's own number of threads too where torch computes.
    """
    if supports_heads(head_dim):
        try:
            library, built_for = _library(cache_dir)
        except LibraryUnavailableError as error:
            problem = str(error)
        else:
            reason = f"C++ kernels built for {built_for}, on {num_threads} thread(s)."
            return SelectedKernels(CpuKernels(library, num_threads), reason)
    else:
        problem = (
            f"the C++ kernels know heads of 16, 32, 48, … {MAX_HEAD_DIM} dimensions, and this "
            f"model has heads of {head_dim}"
        )
    torch.set_num_threads(num_threads)
    return SelectedKernels(TorchKernels(), f"Plain torch, several times slower: {problem}.")


def _library(cache_dir: Path) -> tuple[Library, str]:
    """The kernels, and which processor they were built for."""
    try:
        return load(cache_dir), "this processor"
    except LibraryUnavailableError as error:
        try:
            return prebuilt.load(prebuilt.DIRECTORY)
        except LibraryUnavailableError:
            raise error from None
