"""Lines that a peer's script and ours share, and the engine timed on a fixed case."""

import json
from pathlib import Path

import pytest
from fakes.llama import Llama

from nimlite.bench.offline import (
    CASES,
    Judged,
    OfflineCase,
    OfflineResult,
    bound_tok_s,
    precision_table,
    read_peer,
    read_shape,
    run_case,
    table,
)
from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.models.spec import ModelSpec
from nimlite.profiles.manifest import Precision

LLAMA_3_8B = ModelSpec(
    architecture="LlamaForCausalLM",
    num_layers=32,
    hidden_size=4096,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    intermediate_size=14336,
    vocab_size=128256,
    max_positions=8192,
    norm_eps=1e-5,
)
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
    prefill = OfflineResult(case=CASES["prefill"], precision=Precision.FP8, seconds=2.0).json_line()
    slower = OfflineResult(case=CASES["bs8"], precision=Precision.FP8, seconds=2.0).json_line()
    plain = line.replace('"fp8"', '"none"').replace("2048.0", "999.0")
    log.write_text(f"START 59.8\n{line}\n{slower}\n{prefill}\n{plain}\nINFO done\n{{}}\n")
    assert read_peer(log, Precision.FP8) == {"bs8": 8 * 256, "prefill": 64 * 2049 / 2}
    assert read_peer(log, Precision.BF16) == {"bs8": 999.0}


@pytest.mark.parametrize(
    ("case", "precision", "expected"),
    [
        ("bs1", "bf16", 300),
        ("bs1", "fp8", 580),
        ("128_128", "bf16", 22_528),
        ("128_128", "fp8", 38_156),
        ("1000_1000", "bf16", 11_183),
        ("1000_1000", "fp8", 21_269),
        ("2048_128", "bf16", 2_588),
        ("2048_128", "fp8", 4_454),
    ],
)
def test_the_bound_is_that_of_the_goals(case: str, precision: str, expected: float) -> None:
    bound = bound_tok_s(LLAMA_3_8B, CASES[case], Precision(precision))
    assert bound == pytest.approx(expected, rel=0.05)


def test_results_are_judged() -> None:
    result = OfflineResult(case=CASES["bs1"], precision=Precision.BF16, seconds=1.0)
    judged = [
        Judged(result=result, bound=512.0, peer=128.0),
        Judged(result=result, bound=512.0, peer=None),
    ]
    assert table(judged).splitlines()[2:] == [
        "| 1 x 128/256 | 256 | 512 | 50% | 128 | 2.00 |",
        "| 1 x 128/256 | 256 | 512 | 50% | - | - |",
    ]
    assert json.loads(judged[0].json_line()).items() >= {
        ("bound", 512),
        ("share", 0.5),
        ("ratio", 2.0),
        ("out_tok_s", 256.0),
    }


def test_the_bound_of_weights_of_few_bits() -> None:
    names = (Precision.BF16, Precision.INT8_WO, Precision.FP8, Precision.INT4_AWQ)
    alone = [bound_tok_s(LLAMA_3_8B, CASES["bs1"], name) for name in names]
    assert alone == sorted(alone) and alone[3] == pytest.approx(925, rel=0.01)
    prefill = {name: bound_tok_s(LLAMA_3_8B, CASES["prefill"], name) for name in Precision}
    assert prefill[Precision.INT4_AWQ] == prefill[Precision.BF16] < prefill[Precision.INT8_SQ]


def test_precisions_are_laid_side_by_side() -> None:
    def judged(name: str, precision: Precision, seconds: float) -> Judged:
        result = OfflineResult(case=CASES[name], precision=precision, seconds=seconds)
        return Judged(result=result, bound=1024.0, peer=None)

    both = [
        judged("bs1", Precision.BF16, 1.0),
        judged("prefill", Precision.BF16, 256.0),
        judged("bs1", Precision.INT4_AWQ, 0.5),
    ]
    assert precision_table(both).splitlines() == [
        "| precision | 1 x 128/256 | 64 x 2048/1 |",
        "|---|---:|---:|",
        "| bf16 | 256 (25%, 1.00x) | 512 (50%, 1.00x) |",
        "| int4_awq | 512 (50%, 2.00x) | - |",
    ]


def test_the_shape_is_read_from_a_directory_or_a_file(tmp_path: Path) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "vocab_size": 272,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_shape(tmp_path) == read_shape(tmp_path / "config.json")
    assert read_shape(tmp_path).num_kv_heads == 4
