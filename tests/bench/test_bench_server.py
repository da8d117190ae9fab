"""Processes under test: started, watched, ended."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.llama import Llama

from nimlite.bench.huggingface import export_huggingface
from nimlite.bench.server import ServerCommand, memory_of, running
from nimlite.bench.transformers_generate import running_generate
from nimlite.bench.workload import Workload
from nimlite.errors import BenchmarkError

MIB = 1 << 20


def command(*arguments: str) -> ServerCommand:
    return ServerCommand(
        system="python", variant="any", arguments=arguments, model="m", ready_path="/"
    )


def test_a_server_is_ready_measured_and_gone() -> None:
    with running(command(sys.executable, "-m", "http.server", "{port}")) as server:
        footprint = server.footprint()
        assert (footprint.system, footprint.variant) == ("python", "any")
        assert footprint.start_s == server.start_s > 0
        assert MIB < footprint.ready_rss <= footprint.peak_rss
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server.target.port))


def test_a_server_that_ends_is_told_with_its_last_words() -> None:
    with (
        pytest.raises(BenchmarkError, match=re.escape("did not become ready. It ended with:\nno!")),
        running(command(sys.executable, "-c", "raise SystemExit('no!')")),
    ):
        pass


def test_memory_counts_children() -> None:
    alone = memory_of(os.getpid(), "VmRSS")
    with subprocess.Popen(["sleep", "60"]) as child:
        assert memory_of(os.getpid(), "VmHWM") > memory_of(child.pid, "VmHWM") > 0
        child.kill()
    assert alone > MIB
    assert memory_of(child.pid, "VmRSS") == 0


def test_generate_gives_a_timing_a_prompt(tiny: Llama, tmp_path: Path) -> None:
    export_huggingface(tiny.checkpoint, tmp_path)
    workload = Workload(concurrency=2, num_requests=3, num_prompt_tokens=2, num_output_tokens=4)
    with running_generate(tmp_path) as generate:
        timings = generate.run(workload, ["a b", "c", "d e f"])
        footprint = generate.footprint()
    assert [len(timing.arrivals) for timing in timings] == [4, 4, 4]
    assert timings[0].sent == timings[1].sent < timings[2].sent
    assert timings[1].num_prompt_tokens < timings[0].num_prompt_tokens
    assert footprint.start_s > 0
