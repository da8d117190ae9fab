from itertools import pairwise

import pytest
import torch
from triton_cases import DTYPE, TOLERANCE, WHERE, random, relative_error, step

from nimlite.kernels.base import Counts, KVLayout
from nimlite.kernels.torch_kernels import TorchKernels
from nimlite.kernels.triton import graphs
from nimlite.kernels.triton.kernels import TritonKernels
from nimlite.kernels.triton.weights import (
    BF16_ROWS,
    FP8_ROWS,
    FP16_ROWS,
    INT8_ROWS,
    SCHEMES,
    W4A16,
    W8A16,
)
from nimlite.layers.decoder import Decoder
from nimlite.layers.linear import Weights
from nimlite.models.spec import ModelSpec
from nimlite.quant import SCHEMES as CPU_SCHEMES
from nimlite.quant.base import PackedWeight

SPEC = ModelSpec(
    architecture="LlamaForCausalLM",
    num_layers=2,
    hidden_size=128,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    intermediate_size=160,
    vocab_size=100,
    max_positions=256,
    norm_eps=1e-5,
)
DENSE = BF16_ROWS if torch.bfloat16 == DTYPE else FP16_ROWS


def weights(scheme: str) -> Weights:
    """Random; the embedding and the head stay in 16 bits."""
    shapes = {"qkv": (256, 128), "output": (128, 128), "gate_up": (320, 128), "down": (128, 160)}
    made: dict[str, PackedWeight | torch.Tensor] = {
        "final_norm": torch.ones(128, device=WHERE),
        "embedding": DENSE.pack(random(100, 128, seed=1)),
        "head": DENSE.pack(random(100, 128, seed=2) * 0.1),
    }
    for layer in range(SPEC.num_layers):
        for name in ("input_norm", "post_norm"):
            made[f"layers.{layer}.{name}"] = 1 + random(128, dtype=torch.float32, seed=layer) / 4
        for seed, (name, shape) in enumerate(shapes.items()):
            value = random(*shape, seed=10 * layer + seed) * 0.1
            made[f"layers.{layer}.{name}"] = SCHEMES[scheme].pack(value)
    return made


def on_cpu(made: Weights) -> Weights:
    """The same numbers in fp32."""
    return {
        name: CPU_SCHEMES["fp32"].pack(SCHEMES[w.scheme].unpack(w).cpu())
        if isinstance(w, PackedWeight)
        else w.cpu()
        for name, w in made.items()
    }


@pytest.mark.parametrize("kv_dtype", [DTYPE, torch.float8_e4m3fn])
@pytest.mark.parametrize("scheme", [DENSE.name, FP8_ROWS.name])
def test_a_whole_decoder(scheme: str, kv_dtype: torch.dtype) -> None:
    tolerance = 3 * TOLERANCE
    if scheme == FP8_ROWS.name or kv_dtype != DTYPE:
        # the interpreter rounds to fp8 with twice the error
        tolerance = 0.12 if torch.cuda.is_available() else 0.25
    compare_with_the_twin(scheme, kv_dtype, tolerance)


@pytest.mark.parametrize("scheme", [W4A16.name, W8A16.name, INT8_ROWS.name])
def test_a_whole_decoder_of_integers(scheme: str) -> None:
    # activations are rounded to int8 too
    compare_with_the_twin(scheme, DTYPE, 0.05 if scheme == INT8_ROWS.name else 3 * TOLERANCE)


def compare_with_the_twin(scheme: str, kv_dtype: torch.dtype, tolerance: float) -> None:
    made = weights(scheme)
    chunks, num_blocks = step([(9, 9), (1, 1), (20, 20)], 16)
    decodes, _ = step([(1, 10), (1, 2), (3, 23)], 16)
    kernels = TritonKernels(WHERE, DTYPE, max_sequences=8)
    twin = TorchKernels()
    layout = KVLayout(num_blocks, 16, 2, 32, kv_dtype)
    cpu_layout = KVLayout(num_blocks, 16, 2, 32, torch.float32)
    kv, cpu_kv = kernels.allocate_kv(2, layout), twin.allocate_kv(2, cpu_layout)
    model = Decoder.load(SPEC, made, layout)
    cpu_model = Decoder.load(SPEC, on_cpu(made), cpu_layout)
    for batch in (chunks, decodes):
        logits = model(batch, kv, kernels)
        fields = (getattr(batch, name).cpu() for name in batch.__dataclass_fields__)
        expected = cpu_model(type(batch)(*fields), cpu_kv, twin)
        assert relative_error(logits.cpu(), expected) < tolerance


def test_norms_and_activations_prepare_what_their_consumer_multiplies() -> None:
    kernels = TritonKernels(WHERE, DTYPE, max_sequences=8)
    x, ones = random(3, 128), torch.ones(128, device=WHERE)
    weight = FP8_ROWS.pack(random(64, 128, seed=1))
    direct = kernels.linear(kernels.rms_norm(x, ones, 1e-5), weight, None)
    fused = kernels.linear(kernels.rms_norm(x, ones, 1e-5, consumer=weight), weight, None)
    assert relative_error(fused, direct) < 0.1
    gate_up = random(3, 256)
    direct = kernels.linear(kernels.gated_activation(gate_up, "silu"), weight, None)
    rows = kernels.gated_activation(gate_up, "silu", consumer=weight)
    assert relative_error(kernels.linear(rows, weight, None), direct) < 0.1


def test_a_choice_is_kept_to() -> None:
    weight = DENSE.pack(random(64, 128, seed=1))
    x = random(2, 128)
    expected = DENSE.linear(x, weight)
    config = {"block_n": 16, "block_c": 32, "split": 2, "num_warps": 4, "num_stages": 2}
    for chosen in (config, None):
        choices = {f"{DENSE.name} 64x128 16": {"config": chosen}}
        kernels = TritonKernels(WHERE, DTYPE, max_sequences=8, choices=choices)
        assert relative_error(kernels.linear(x, weight, None), expected) < TOLERANCE


def test_batch_sizes_grow_with_the_batch() -> None:
    assert graphs.batch_sizes(1) == [1]
    assert graphs.batch_sizes(20) == [1, 2, 4, 8, 16, 20]
    sizes = graphs.batch_sizes(1024)
    assert sizes[-1] == 1024
    assert all(b <= max(a * 2, a + 8) or b <= a * 1.13 for a, b in pairwise(sizes))


def test_padding_silences_the_rest_of_a_recorded_batch() -> None:
    batch, _ = step([(1, 5), (1, 9), (1, 3), (1, 40)], 16)
    slots = batch.slots_T.clone()
    graphs.pad(batch, Counts(2, 2, 1), size=3)
    assert batch.slots_T.tolist() == [*slots[:2].tolist(), -1, int(slots[3])]
    assert batch.context_lens_S.tolist() == [5, 9, 0, 40]
    assert batch.logit_rows_R.tolist() == [0, 0, 0, 3]
