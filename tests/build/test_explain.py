"""What a build says that it did, against what the engine holds."""

from dataclasses import replace
from pathlib import Path

import pytest
from fakes.llama import random_llama

from nimlite.build.builder import BuildJob, build_engine
from nimlite.build.explain import Pass, explain
from nimlite.observe.progress import SILENT
from nimlite.profiles.manifest import Precision
from nimlite.profiles.memory import plan_memory
from nimlite.profiles.shape import ModelShape
from nimlite.store.digest import FileDigest


def passes(
    directory: Path, precision: Precision, *, plans: int = 0, **changes: object
) -> dict[str, Pass]:
    """`plans`: how many of TensorRT lie in the engine, of 1 MiB each."""
    llama = random_llama(directory, **changes)
    profile = llama.profile(precision)
    job = BuildJob(
        checkpoint=llama.checkpoint,
        profile=profile,
        device="cpu",
        model_name="Tiny",
        served_name="tiny",
        source=str(llama.home),
    )
    built = build_engine(job, directory / "engine", SILENT, llama.target(precision))
    files = {f"{i}.plan": FileDigest(1 << 20, "") for i in range(plans)}
    built = replace(built, config=replace(built.config, files={**built.config.files, **files}))
    memory = plan_memory(ModelShape.of(llama.spec), profile, 4 << 30)
    return {each.name: each for each in explain(built, memory)}


def test_each_pass_says_what_it_changed_and_saved(tmp_path: Path) -> None:
    found = passes(tmp_path, Precision.FP32)
    qkv, gate_up = found["qkv fusion"], found["gate_up fusion"]
    assert qkv.changed == "q_proj + k_proj + v_proj are one product [128, 64] in 2 layers"
    assert qkv.saved.startswith("4 of 6 products a step")
    assert "gate_proj + up_proj are one product [320, 64] in 2 layers" in gate_up.changed
    assert found["residual and norm"].saved.startswith("4 kernels a step")
    assert "512 positions" in found["RoPE table"].changed
    assert found["tied embedding"].saved == f"{272 * 64 * 4 / 2**20:.1f} MiB"
    assert found["packing as fp32"].saved.startswith("nothing: ")
    assert "32.00 bits a weight" in found["packing as fp32"].changed
    # output, gate, up and down of one of two layers: 64 * 64 + 3 * 64 * 160 of 12288 + that
    assert (
        found["dead rows"].saved == f"{34816 / (2 * (34816 + 64 * 128)):.1%} of a prompt's products"
    )
    assert "serves all 2 layers" in found["memory plan"].changed
    assert "TensorRT plans" not in found


def test_plans_are_told_of(tmp_path: Path) -> None:
    found = passes(tmp_path, Precision.FP32, plans=3, num_hidden_layers=5)["TensorRT plans"]
    assert "is one of 6 segments, of 3 plans: 3.0 MiB in all" in found.changed
    assert found.saved == "3 plans that layers of one shape would have of their own"


@pytest.mark.parametrize("tied", [True, False])
def test_what_did_not_change_is_said(tmp_path: Path, tied: bool) -> None:
    found = passes(tmp_path, Precision.BF16, tie_word_embeddings=tied)
    assert (found["tied embedding"].saved == "nothing") is not tied
    assert ("[272, 64], held once" in found["tied embedding"].changed) is tied
    assert f"matrices: {9 + (not tied)}, of" in found["packing as bf16"].changed
