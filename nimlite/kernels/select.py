"""Which kernels serve on this machine."""

from dataclasses import dataclass
from pathlib import Path

import torch

from nimlite.kernels.base import Kernels
from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.kernels.cpu.library import LibraryUnavailableError, load
from nimlite.kernels.torch_kernels import TorchKernels


@dataclass(frozen=True, slots=True)
class SelectedKernels:
    """The kernels and why they were chosen, in a sentence."""

    kernels: Kernels
    reason: str


def cpu_kernels(cache_dir: Path, num_threads: int) -> SelectedKernels:
    """The C++ kernels, or plain torch where they can't be built.

    Sets torch's own number of threads too where torch computes.
    """
    try:
        library = load(cache_dir)
    except LibraryUnavailableError as error:
        torch.set_num_threads(num_threads)
        reason = f"Plain torch, several times slower: {error}."
        return SelectedKernels(TorchKernels(), reason)
    reason = f"C++ kernels built for this processor, on {num_threads} thread(s)."
    return SelectedKernels(CpuKernels(library, num_threads), reason)
