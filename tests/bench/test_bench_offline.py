"""Lines that a peer's script and ours share, and the engine timed on a fixed case."""

import json
from pathlib import Path

import pytest
from fakes.llama import Llama

from nimlite.bench.offline import CASES, OfflineCase, OfflineResult, read_peer, run_case
from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.profiles.manifest import Precision

CASE = OfflineCase(name="small", num_requests=5, num_prompt_tokens=40, num_output_tokens=7)


def test_a_case_generates_all_its_tokens(tiny: Llama, kernels: CpuKernels) -> None:
    engine = tiny.engine(kernels, prefix_caching=False)
    assert run_case(engine, CASE) > 0
    assert engine.stats.num_generated_tokens == 5 * 7
    assert engine.stats.num_prompt_tokens == 5 * 40


def test_a_result_has_the_form_of_the_peers() -> None:
    result = OfflineResult(case=CASE, precision=Precision.BF16, seconds=0.5)
    assert json.loads(result.json_line()) == {
        "peer": "nimlite",
        "q": "bf16",
        "case": "small",
        "n": 5,
        "isl": 40,
        "osl": 7,
        "s": 0.5,
        "out_tok_s": 70.0,
        "tot_tok_s": 470.0,
    }


def test_a_peers_log_is_read_among_other_lines(tmp_path: Path) -> None:
    log = tmp_path / "peer.log"
    line = OfflineResult(case=CASES["bs8"], precision=Precision.FP8, seconds=1.0).json_line()
    log.write_text(f"START 59.8\n{line}\nINFO done\n")
    assert read_peer(log) == {"bs8": pytest.approx(8 * 256)}
