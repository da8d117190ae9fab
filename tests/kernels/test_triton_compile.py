import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import triton_cases  # noqa: F401 (leaves the module out where Triton is missing)

KIB = 1024


TARGETS = {75: 64 * KIB, 80: 163 * KIB, 90: 227 * KIB, 120: 99 * KIB}
"""Shared memory by compute capability."""


@pytest.fixture(scope="module")
def compilers() -> Iterator[dict[int, subprocess.Popen[str]]]:
    """At work for all targets at the same time."""
    script = Path(__file__).with_name("triton_targets.py")
    environment = os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    started = {
        capability: subprocess.Popen(
            [sys.executable, script, str(capability), str(shared)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for capability, shared in TARGETS.items()
    }
    yield started
    for process in started.values():
        process.kill()


@pytest.mark.parametrize(("capability", "shared"), TARGETS.items())
def test_kernels_compile_within_the_limits_of(
    compilers: dict[int, subprocess.Popen[str]], capability: int, shared: int
) -> None:
    output, errors = compilers[capability].communicate()
    assert compilers[capability].returncode == 0, errors
    reports = [json.loads(line) for line in output.splitlines()]
    kernels = {report["kernel"] for report in reports}
    assert {
        "decode",
        "_prefill",
        "_rope_and_cache",
        "_norm",
        "_linear",
        "_sample",
        "_experts",
    } <= kernels
    for report in reports:
        assert report["shared"] <= shared, report
        if report["kernel"] in ("_linear", "_weight_only"):
            assert not report["serialized"], report
        if capability >= 90:
            # attention may keep a few values aside, outside its inner loop
            room = {"decode": 64, "_prefill": 8}.get(report["kernel"], 0)
            assert report["stack"] <= room, f"registers spill: {report}"
        if capability >= 80 and report["kernel"] in (
            "decode",
            "_prefill",
            "_weight_only",
            "_experts",
            "experts_words",
        ):
            assert report["tensor_cores"], report
