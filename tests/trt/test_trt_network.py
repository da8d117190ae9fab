"""What segments compute, in their network's own terms, beside transformers."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tensorrt_rtx as trt
import torch
from fakes.llama import Llama, random_llama
from fakes.trt_network import run_network

from nimlite.layers.rotary import cos_sin_table
from nimlite.profiles.manifest import Precision
from nimlite.quant import unpack
from nimlite.quant.base import PackedWeight
from nimlite.tensorrt.network import define
from nimlite.tensorrt.segment import ActivationType, Segment, WeightFormat, segments

TORCH = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
INPUT_SCALE = 0.02
"""For all activations, where they have a fixed one."""
TOKENS = [5, 17, 200, 3, 44, 90, 17, 9]


@contextmanager
def network_of(segment: Segment) -> Iterator[Any]:
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    flag = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    network = builder.create_network(1 << int(flag))
    constants = define(trt, network, segment)
    yield network
    del constants


def weights_for(llama: Llama, segment: Segment, layers: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Its weights, rounded as it wants them. `layers`: whose output projection and MLP, whose
    QKV."""
    engine = llama.weights(Precision.FP32)
    result = {}
    for port in segment.inputs:
        layer = layers[-1] if port.name.startswith(("qkv", "input_norm")) else layers[0]
        name = next(
            (n for n in (port.name, f"layers.{layer}.{port.name}") if n in engine),
            "embedding" if port.name == "head" else None,
        )
        if port.name.endswith(".input_scale"):
            result[port.name] = torch.tensor(INPUT_SCALE)
        if name is None:
            continue
        tensor = engine[name]
        matrix = unpack(tensor) if isinstance(tensor, PackedWeight) else tensor
        if port.dtype in TORCH:
            result[port.name] = matrix.to(TORCH[port.dtype])
            continue
        result[port.name], result[f"{port.name}.scales"] = rounded(matrix, port.dtype)
    return result


def rounded(matrix_NC: torch.Tensor, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and one scale a row, which is the last dimension."""
    largest, dtype = {"fp8": (448, torch.float8_e4m3fn), "int8": (127, torch.int8)}[kind]
    scales_N = matrix_NC.abs().amax(-1) / largest
    values_NC = matrix_NC / scales_N.unsqueeze(-1)
    return (values_NC.round() if kind == "int8" else values_NC).to(dtype), scales_N


def near(matrix_NC: torch.Tensor, kind: str) -> torch.Tensor:
    """What `rounded` makes of it, in fp32."""
    values_NC, scales_N = rounded(matrix_NC, kind)
    return values_NC.float() * scales_N.unsqueeze(-1)


def stepped(x: torch.Tensor) -> torch.Tensor:
    """In e4m3 steps of INPUT_SCALE."""
    return (x / INPUT_SCALE).clamp(-448, 448).to(torch.float8_e4m3fn).float() * INPUT_SCALE


@torch.inference_mode()
def expected_logits(llama: Llama, weights: WeightFormat) -> torch.Tensor:
    """transformers', in fp32, with the blocks' matrices rounded as the segments' are, and for fp8
    what they are multiplied with."""
    model = copy.deepcopy(llama.reference)
    for name, module in model.named_modules():
        if weights == "fp8" and name.endswith("_proj"):
            module.register_forward_pre_hook(lambda _, given: near(given[0], "fp8"))
        if weights == "fp8_static" and name.endswith("_proj"):
            module.register_forward_pre_hook(lambda _, given: stepped(given[0]))
    for name, parameter in model.named_parameters():
        if weights != "dense" and name.endswith("_proj.weight"):
            parameter.copy_(near(parameter, weights.removesuffix("_static")))
    return model(torch.tensor([TOKENS])).logits[0]


def segment_logits(llama: Llama, dtype: ActivationType, weights: WeightFormat) -> torch.Tensor:
    """One sequence through all segments, with torch's attention between them."""
    spec = llama.spec
    parts = {
        part.kind: part
        for part in segments(spec, dtype=dtype, weights=weights, max_tokens=64, max_logit_rows=64)
    }
    cos, sin = cos_sin_table(spec.rope, spec.head_dim, spec.max_positions).chunk(2, dim=1)
    values = {
        "token_ids": torch.tensor(TOKENS, dtype=torch.int32),
        "positions": torch.arange(len(TOKENS)),
        "cos": cos,
        "sin": sin,
    }
    for layer in range(spec.num_layers + 1):
        kind = "first" if layer == 0 else "last" if layer == spec.num_layers else "middle"
        given = weights_for(llama, parts[kind], (max(layer - 1, 0), layer))
        with network_of(parts[kind]) as network:
            values |= run_network(network, values | given)
        if kind == "last":
            break
        q, k, v = (values[name].transpose(0, 1).unsqueeze(0) for name in ("q", "k", "v"))
        o_HTK = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=True
        )[0]
        values["attended"] = o_HTK.transpose(0, 1).flatten(1)
        values["residual"] = values.pop("residual_out")
    return values["logits"].float()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Llama:
    return random_llama(tmp_path_factory.mktemp("llama"), num_hidden_layers=3)


def relative_error(llama: Llama, dtype: str, weights: WeightFormat) -> float:
    expected_TV = expected_logits(llama, weights)
    return float((segment_logits(llama, dtype, weights) - expected_TV).norm() / expected_TV.norm())


@pytest.mark.parametrize(
    ("dtype", "weights", "bound"),
    [
        ("fp32", "dense", 1e-5),
        ("fp32", "int8", 1e-5),
        ("fp32", "fp8", 1e-5),
        ("fp32", "fp8_static", 1e-5),
        ("fp16", "dense", 0.004),
        ("bf16", "dense", 0.03),
        ("fp16", "int8", 0.004),
        # Few values of e4m3 lie near each other: a bit less in x moves some to the next.
        ("bf16", "fp8", 0.2),
    ],
)
def test_segments_compute_the_decoder(
    plain: Llama, dtype: str, weights: WeightFormat, bound: float
) -> None:
    assert relative_error(plain, dtype, weights) < bound


def test_biases_and_other_activations_are_part_of_it(tmp_path: Path) -> None:
    llama = random_llama(
        tmp_path,
        seed=1,
        attention_bias=True,
        mlp_bias=True,
        hidden_act="gelu_pytorch_tanh",
        tie_word_embeddings=False,
    )
    assert relative_error(llama, "fp32", "dense") < 1e-5
    assert relative_error(llama, "fp32", "int8") < 1e-5
