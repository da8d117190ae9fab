"""What a build says that it did, against what the engine holds."""

import dataclasses
from pathlib import Path

import pytest
from fakes.llama import random_llama

from nimlite.build.builder import BuildJob, build_engine
from nimlite.build.engine_dir import EngineDirectory
from nimlite.build.explain import Choices, Pass, explain
from nimlite.kernels.base import Kernels
from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.kernels.torch_kernels import TorchKernels
from nimlite.observe.progress import SILENT
from nimlite.profiles.manifest import Precision
from nimlite.profiles.memory import plan_memory
from nimlite.profiles.shape import ModelShape
from nimlite.store.digest import FileDigest


def build(directory: Path, precision: Precision, **changes: object) -> EngineDirectory:
    llama = random_llama(directory, **changes)
    job = BuildJob(
        checkpoint=llama.checkpoint,
        profile=llama.profile(precision),
        device="cpu",
        model_name="Tiny",
        served_name="tiny",
        source=str(llama.home),
    )
    return build_engine(job, directory / "engine", SILENT, llama.target(precision))


def passes(built: EngineDirectory, kernels: Kernels | Choices) -> dict[str, Pass]:
    config = built.config
    memory = plan_memory(ModelShape.of(config.spec), config.profile, 4 << 30)
    return {each.name: each for each in explain(built, memory, kernels)}


def test_each_pass_says_what_it_changed_and_saved(tmp_path: Path) -> None:
    found = passes(build(tmp_path, Precision.FP32), TorchKernels())
    qkv, gate_up = found["qkv fusion"], found["gate_up fusion"]
    assert qkv.changed == "q_proj + k_proj + v_proj are one product [128, 64] in 2 layers"
    assert qkv.saved.startswith("4 of 6 products a step")
    assert "gate_proj + up_proj are one product [320, 64] in 2 layers" in gate_up.changed
    assert found["residual and norm"].saved.startswith("4 kernels a step")
    assert "512 positions" in found["RoPE table"].changed
    assert found["tied embedding"].saved == f"{272 * 64 * 4 / 2**20:.1f} MiB"
    assert found["packing as fp32"].saved.startswith("nothing: ")
    assert "32.00 bits a weight" in found["packing as fp32"].changed
    # output, gate, up and down of one of two layers, of those and qkv; and the head
    rest, head = 64 * 64 + 3 * 64 * 160, 272 * 64
    products = 2 * (rest + 64 * 128) + head
    assert found["dead rows"].saved == (
        f"{(rest + head) / products:.1%} of such a token's products ({head / products:.1%} in the"
        " head)"
    )
    for name in ("norm folding", "dead tensors", "kernel choice"):
        assert found[name].saved == "nothing"
    assert "serves all 2 layers" in found["memory plan"].changed
    assert "TensorRT plans" not in found


def test_plans_are_told_of(tmp_path: Path) -> None:
    built = build(tmp_path, Precision.FP32, num_hidden_layers=5)
    plans = {f"{i}.plan": FileDigest(1 << 20, "") for i in range(3)}
    config = dataclasses.replace(built.config, files=dict(built.config.files) | plans)
    found = passes(dataclasses.replace(built, config=config), TorchKernels())["TensorRT plans"]
    assert "is one of 6 segments, of 3 plans: 3.0 MiB in all" in found.changed
    assert found.saved == "3 plans that layers of one shape would have of their own"


@pytest.mark.parametrize("tied", [True, False])
def test_what_did_not_change_is_said(tmp_path: Path, tied: bool) -> None:
    built = build(tmp_path, Precision.BF16, tie_word_embeddings=tied)
    found = passes(built, TorchKernels())
    assert (found["tied embedding"].saved == "nothing") is not tied
    assert ("[272, 64], held once" in found["tied embedding"].changed) is tied
    assert f"matrices: {9 + (not tied)}, of" in found["packing as bf16"].changed


def test_what_quantization_folds_and_what_is_left_out(tmp_path: Path, kernels: CpuKernels) -> None:
    built = build(tmp_path, Precision.INT8_SQ)
    dead = ("a.inv_freq", "b.inv_freq", "c.inv_freq", "d.inv_freq")
    config = dataclasses.replace(built.config, unused=dead)
    found = passes(dataclasses.replace(built, config=config), kernels)
    assert found["norm folding"].changed.startswith("4 norms divide by the factors")
    assert found["norm folding"].saved == "256 multiplications a token"
    assert found["dead tensors"].changed.endswith("a.inv_freq, b.inv_freq, c.inv_freq and 1 more")
    assert "C++ compiled for this processor computes, and reads" in found["kernel choice"].changed
    weights = built.config.spec.num_parameters - 5 * 64
    assert found["kernel choice"].saved.startswith(
        f"{2 * weights / 2**20:.1f} MiB that plain torch"
    )


def test_the_kernels_that_were_measured_for_a_gpu(tmp_path: Path) -> None:
    built = build(tmp_path, Precision.BF16)
    own = {"config": {"block": 16}, "microseconds": 2.0, "library_microseconds": 3.0}
    library = {"config": None, "microseconds": 5.0, "library_microseconds": 5.0}
    choices = {
        "bf16 128x64 1": own,
        "bf16 128x64 64": library,
        "bf16 64x160 1": own | {"library_microseconds": None},
        "bf16 4096x4096 1": own,  # of another model
    }
    found = passes(built, choices)["kernel choice"]
    assert found.changed.startswith("measured here for each matrix and number of rows: 4 of 6 run")
    assert found.saved.endswith(": 1 rows 8 µs (the library has none), 64 rows 10 µs (10 µs)")
    assert passes(built, {})["kernel choice"].changed == "nothing was measured on this GPU"
