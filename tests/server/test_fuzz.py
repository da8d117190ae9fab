"""A small share of `tests/fuzz_server.py`."""

import pytest
from fakes.fuzzed import fuzz
from fakes.llama import Llama

from nimlite.kernels.cpu.cpu_kernels import CpuKernels


def test_whatever_comes_over_a_socket_is_answered_or_closed_and_leaves_nothing(
    tiny: Llama, kernels: CpuKernels, caplog: pytest.LogCaptureFixture
) -> None:

    found = fuzz(tiny, kernels, num_requests=300, num_threads=4, seed=1)
    assert found.problems == []
    assert found.num_left == 0
    assert "Traceback" not in caplog.text
