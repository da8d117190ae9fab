"""The threads of the C++ kernels: shared by callers, and gone with their owner."""

import os
from concurrent.futures import ThreadPoolExecutor

import torch
from kernel_cases import random

from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.quant import SCHEMES


def tasks() -> set[str]:
    return set(os.listdir("/proc/self/task"))


def test_threads_end_with_their_kernels(kernels: CpuKernels) -> None:
    before = tasks()
    many = kernels.with_threads(4)
    started = tasks() - before
    assert len(started) == 3
    del many
    while started & tasks():  # the system forgets a thread a moment after it was joined
        os.sched_yield()


def test_several_callers_at_once_get_their_own_results(kernels: CpuKernels) -> None:
    weight = SCHEMES["int8"].pack(random(512, 256))
    inputs = [random(num_rows, 256, seed=num_rows) for num_rows in range(1, 33)]
    expected = [kernels.linear(x_TC, weight, None) for x_TC in inputs]
    shared = kernels.with_threads(3)
    with ThreadPoolExecutor(3) as callers:
        for _ in range(5):
            found = callers.map(lambda x_TC: shared.linear(x_TC, weight, None), inputs)
            assert all(map(torch.equal, found, expected))
