"""What surrounds the engine on a GPU, as far as a machine without one can tell."""

import dataclasses

import pytest
import torch
from fakes.llama import Llama

from nimlite.engine import gpu
from nimlite.engine.gpu import gpu_scheme, largest_step, random_weights
from nimlite.kernels.base import KVLayout
from nimlite.models.registry import weight_sources
from nimlite.profiles.manifest import Precision
from nimlite.quant.base import PackedWeight

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("precision", "scheme"),
    [
        (Precision.BF16, "bf16_rows"),
        (Precision.FP8, "fp8_rows"),
        (Precision.INT8_SQ, "int8_rows"),
        (Precision.INT8_WO, "w8a16"),
        (Precision.INT4_AWQ, "w4a16"),
        (Precision.INT4_GPTQ, "w4a16"),
    ],
)
def test_the_embedding_and_the_head_stay_in_bf16(precision: Precision, scheme: str) -> None:
    names = ("embedding", "layers.0.qkv", "layers.1.down", "head")
    found = [gpu_scheme(name, precision, 4096).name for name in names]
    assert found == ["bf16_rows", scheme, scheme, "bf16_rows"]
    assert gpu_scheme("layers.0.down", precision, 4097).name == "bf16_rows"
    assert gpu_scheme("layers.0.experts_down", precision, 4096).name == scheme
    assert gpu_scheme("layers.0.router", precision, 4096).name == "bf16_rows"


@pytest.mark.parametrize("precision", [Precision.FP8, Precision.INT4_AWQ])
def test_random_weights_have_the_shapes_of_the_spec(tiny: Llama, precision: Precision) -> None:
    spec = tiny.spec
    weights = random_weights(spec, precision, CPU)
    assert weights.keys() == weight_sources(spec).keys()
    qkv = weights["layers.1.qkv"]
    assert isinstance(qkv, PackedWeight)
    assert (qkv.num_rows, qkv.num_columns) == (spec.qkv_size, spec.hidden_size)
    again = random_weights(spec, precision, CPU)["layers.1.qkv"]
    assert isinstance(again, PackedWeight)
    assert torch.equal(again.tensors["scale"], qkv.tensors["scale"])


def test_recorded_steps_of_many_rows_keep_room_for_a_widened_weight(tiny: Llama) -> None:
    spec = tiny.spec
    few = dataclasses.replace(tiny.profile(Precision.INT4_AWQ), max_batch_size=128)
    many = dataclasses.replace(few, max_batch_size=256)
    largest = 2 * 2 * spec.intermediate_size * spec.hidden_size
    assert [gpu._widened_bytes(spec, profile) for profile in (few, many)] == [0, largest]
    assert gpu._widened_bytes(spec, dataclasses.replace(many, precision=Precision.FP8)) == 0


def test_the_largest_step_uses_every_row_and_a_block_a_sequence(tiny: Llama) -> None:
    profile = dataclasses.replace(tiny.profile(), max_batch_size=8, max_num_tokens=100)
    layout = KVLayout(8, profile.block_size, 2, 16, torch.float32)
    batch = largest_step(profile, layout, CPU)
    assert len(batch.token_ids_T) == int(batch.query_starts_S1[-1]) == 96
    assert len(set(batch.slots_T.tolist())) == 96
    assert set((batch.slots_T // layout.block_size).tolist()) == set(range(8))
    assert batch.context_lens_S.tolist() == [12] * 8
    assert batch.logit_rows_R.tolist() == list(range(11, 96, 12))
