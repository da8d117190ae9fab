"""What is said of public models, as far as it needs no GPU."""

import dataclasses
import json

import pytest
import torch
from fakes.llama import Llama

pytest.importorskip("triton", reason="needs triton, on a CPU machine for its interpreter")

from nimlite.bench import families
from nimlite.bench.apart import Done
from nimlite.bench.families import Decoding, FamilyTiming, decode_seconds, json_line, step_bytes
from nimlite.bench.public_configs import CONFIGS
from nimlite.engine.gpu import random_weights
from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.models.registry import read_spec
from nimlite.models.spec import MoeSpec
from nimlite.profiles.manifest import Precision


def test_a_step_reads_the_experts_that_have_tokens(tiny: Llama) -> None:
    moe = MoeSpec(num_experts=4, experts_per_token=2, intermediate_size=32)
    spec = dataclasses.replace(tiny.spec, architecture="MixtralForCausalLM", moe=moe)
    weights = random_weights(spec, Precision.BF16, torch.device("cpu"))
    profile = families._profile(spec, Precision.BF16)
    experts = 2 * spec.num_layers * 3 * 4 * 32 * spec.hidden_size
    half, all_ = (step_bytes(spec, weights, profile, 1, touched) for touched in (2.0, 4.0))
    assert all_ - half == experts / 2
    many = step_bytes(spec, weights, profile, 64, 4.0)
    row = 0 if spec.tie_embeddings else 2 * spec.hidden_size
    assert many - all_ == 63 * (row + 168 * spec.kv_bytes_per_token(2))


def test_as_many_layers_as_fit() -> None:
    spec = read_spec(CONFIGS["mistralai/Mixtral-8x7B-v0.1"][1])
    whole, part = (
        families._fitting(spec, Precision.BF16, gib << 30).num_layers for gib in (139, 78)
    )
    assert (whole, part) == (32, 22)


def test_steps_are_timed(tiny: Llama, kernels: CpuKernels) -> None:
    engine = tiny.engine(kernels, max_model_len=families._PROMPT + families._OUTPUT + 64)
    assert decode_seconds(engine, 2) > 0
    assert not engine.has_work


def test_a_failure_is_a_row() -> None:
    one = Decoding(batch=1, step_s=0.005, bound_s=0.004, touched=2.0)
    timing = FamilyTiming(
        precision="bf16",
        num_layers=22,
        all_layers=32,
        parameters=46.7,
        read_bytes_s=4.5e12,
        decodings=(one, dataclasses.replace(one, batch=64, touched=None)),
    )
    found = [Done("bf16:a", timing, "", 9.0), Done("bf16:b", None, "took longer than 60 s", 60.0)]
    *_, first, second = families.table(found).splitlines()
    assert first == "| bf16:a | 46.7 B | 22 of 32 | 200 | 80% | 2.0 | 12,800 | 80% | - |"
    assert second == "| bf16:b | took longer than 60 s |"
    assert json.loads(json_line(found[1]))["failure"] == "took longer than 60 s"
