import dataclasses
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
    SCHEMES,
)
from nimlite.layers.decoder import Decoder
from nimlite.layers.linear import Weights
from nimlite.models.spec import ModelSpec, RopeSpec
from nimlite.models.weights import WeightNames, decoder_weights
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


SANDWICH = dataclasses.replace(
    SPEC,
    block="sandwich",
    activation="gelu_tanh",
    windows=(5, 0),
    local_rope=RopeSpec(theta=100.0),
    attention_soft_cap=2.0,
    logit_soft_cap=3.0,
    qk_norm=True,
    embedding_scale=4.0,
    tie_embeddings=True,
)
PARALLEL = dataclasses.replace(
    SPEC,
    norm="layer",
    norm_bias=True,
    block="parallel",
    activation="gelu",
    gated_mlp=False,
    rope=RopeSpec(dim=16),
    **dict.fromkeys(("qkv_bias", "output_bias", "mlp_bias", "head_bias"), True),
)
POSITIONS = dataclasses.replace(
    PARALLEL,
    block="parallel_shared",
    activation="relu2",
    rope=None,
    alibi_slopes=(0.5, 0.25, 0.1, 0.01),
    learned_positions=True,
    embedding_norm=True,
    clip_qkv=1.0,
)


def weights(scheme: str, spec: ModelSpec = SPEC) -> Weights:
    """Random; the embedding and the head stay in 16 bits."""
    made: dict[str, PackedWeight | torch.Tensor] = {}
    names = WeightNames() if spec.gated_mlp else WeightNames(up=("mlp.up",))
    for seed, (name, source) in enumerate(decoder_weights(spec, names).items()):
        value = random(*source.shape, seed=seed)
        if name.endswith("norm"):
            made[name] = 1 + value.float() / 4
        elif not source.quantize:
            made[name] = value.float() / 4
        elif name in ("embedding", "head"):
            made[name] = DENSE.pack(value if name == "embedding" else value * 0.1)
        else:
            made[name] = SCHEMES[scheme].pack(value * 0.1)
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
    check_decoder(SPEC, scheme, kv_dtype, tolerance)


@pytest.mark.parametrize("spec", [SANDWICH, PARALLEL, POSITIONS], ids=lambda spec: spec.block)
def test_decoders_of_other_kinds(spec: ModelSpec) -> None:
    check_decoder(spec, DENSE.name, DTYPE, 3 * TOLERANCE)


def test_norms_that_two_products_read_are_rounded_for_both() -> None:
    tolerance = 0.12 if torch.cuda.is_available() else 0.25
    check_decoder(POSITIONS, FP8_ROWS.name, DTYPE, tolerance)


def check_decoder(spec: ModelSpec, scheme: str, kv_dtype: torch.dtype, tolerance: float) -> None:
    made = weights(scheme, spec)
    chunks, num_blocks = step([(9, 9), (1, 1), (20, 20)], 16)
    decodes, _ = step([(1, 10), (1, 2), (3, 23)], 16)
    kernels = TritonKernels(WHERE, DTYPE, max_sequences=8)
    twin = TorchKernels()
    layout = KVLayout(num_blocks, 16, 2, 32, kv_dtype)
    cpu_layout = KVLayout(num_blocks, 16, 2, 32, torch.float32)
    kv, cpu_kv = kernels.allocate_kv(2, layout), twin.allocate_kv(2, cpu_layout)
    model = Decoder.load(spec, made, layout)
    cpu_model = Decoder.load(spec, on_cpu(made), cpu_layout)
    for batch in (chunks, decodes):
        logits = model(batch, kv, kernels)
        fields = (getattr(batch, name) for name in batch.__dataclass_fields__)
        on_cpu_batch = type(batch)(*(None if one is None else one.cpu() for one in fields))
        expected = cpu_model(on_cpu_batch, cpu_kv, twin)
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
