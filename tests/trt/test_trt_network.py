"""What segments compute, in their network's own terms, beside transformers."""

import copy
import functools
from pathlib import Path

import pytest
import torch
from fakes.llama import Llama, random_llama
from fakes.trt_network import interpreted

from nimlite.engine.evaluate import prompt_logits
from nimlite.kernels.torch_kernels import TorchKernels
from nimlite.profiles.manifest import Precision
from nimlite.quant import unpack
from nimlite.quant.base import PackedWeight
from nimlite.quant.rtn import group_size_for
from nimlite.tensorrt.decoder import SegmentedDecoder, Tensors, segment_weights
from nimlite.tensorrt.segment import ActivationType, WeightFormat, segments

TORCH = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
INPUT_SCALE = 0.02
"""For all activations, where they have a fixed one."""
TOKENS = [5, 17, 200, 3, 44, 90, 17, 9]


def bound(weight: PackedWeight, dtype: ActivationType, weights: WeightFormat) -> Tensors:
    """A weight, rounded as a segment wants it."""
    matrix_NC = unpack(weight)
    if weights == "dense":
        return {"": matrix_NC.to(TORCH[dtype])}
    if weights == "int4":
        values, scales, offsets = grouped(matrix_NC)
        low, high = (values & 15).to(torch.uint8).unflatten(-1, (-1, 2)).unbind(-1)
        return {"": low | high << 4, ".scales": scales, ".offsets": offsets}
    values, scales = rounded(matrix_NC, weights)
    ports = {"": values, ".scales": scales}
    if weights == "fp8_static":
        ports[".input_scale"] = torch.tensor(INPUT_SCALE)
    return ports


def rounded(matrix_NC: torch.Tensor, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and one scale a row, which is the last dimension."""
    largest, dtype = (127, torch.int8) if kind.startswith("int8") else (448, torch.float8_e4m3fn)
    scales_N = matrix_NC.abs().amax(-1) / largest
    values_NC = matrix_NC / scales_N.unsqueeze(-1)
    return (values_NC.round() if dtype is torch.int8 else values_NC).to(dtype), scales_N


def grouped(matrix_NC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """int4 values [groups, group size] in int8, and a scale and an offset for each group."""
    groups = matrix_NC.reshape(-1, group_size_for(matrix_NC.shape[1]))
    least, most = groups.aminmax(dim=1)
    scales = (most - least) / 15
    values = ((groups - least[:, None]) / scales[:, None]).round() - 8
    return values.to(torch.int8), scales, least + 8 * scales


def near(matrix_NC: torch.Tensor, kind: str) -> torch.Tensor:
    """What rounding makes of it, in fp32."""
    if kind == "int4":
        values, scales, offsets = grouped(matrix_NC)
        return (values * scales[:, None] + offsets[:, None]).reshape(matrix_NC.shape)
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
        if weights in ("fp8", "int8_dynamic") and name.endswith("_proj"):
            module.register_forward_pre_hook(lambda _, given: near(given[0], weights))
        if weights == "fp8_static" and name.endswith("_proj"):
            module.register_forward_pre_hook(lambda _, given: stepped(given[0]))
    for name, parameter in model.named_parameters():
        if weights != "dense" and name.endswith("_proj.weight"):
            parameter.copy_(near(parameter, weights.removesuffix("_static")))
    return model(torch.tensor([TOKENS])).logits[0]


def segment_logits(llama: Llama, dtype: ActivationType, weights: WeightFormat) -> torch.Tensor:
    """One text through all segments, in steps over a paged pool of ours."""
    parts = {
        part.kind: part
        for part in segments(llama.spec, dtype=dtype, weights=weights, max_tokens=64)
    }
    bind = functools.partial(bound, dtype=dtype, weights=weights)
    decoder = SegmentedDecoder(
        decoder=llama.decoder(),
        run=interpreted(*parts.values()),
        weights=segment_weights(parts, llama.weights(Precision.FP32), bind),
    )
    return prompt_logits(decoder, TorchKernels(), TOKENS, num_decoded=3)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Llama:
    return random_llama(tmp_path_factory.mktemp("llama"), num_hidden_layers=3)


def relative_error(llama: Llama, dtype: ActivationType, weights: WeightFormat) -> float:
    expected_TV = expected_logits(llama, weights)
    return float((segment_logits(llama, dtype, weights) - expected_TV).norm() / expected_TV.norm())


@pytest.mark.parametrize(
    ("dtype", "weights", "bound"),
    [
        ("fp32", "dense", 1e-5),
        ("fp32", "int8", 1e-5),
        ("fp32", "int8_dynamic", 1e-5),
        ("fp32", "int4", 1e-5),
        ("fp32", "fp8", 1e-5),
        ("fp32", "fp8_static", 1e-5),
        ("fp16", "dense", 0.004),
        ("bf16", "dense", 0.03),
        ("fp16", "int8", 0.004),
        ("bf16", "int4", 0.03),
        # Few values of e4m3 lie near each other: a bit less in x moves some to the next.
        ("bf16", "fp8", 0.2),
    ],
)
def test_segments_compute_the_decoder(
    plain: Llama, dtype: ActivationType, weights: WeightFormat, bound: float
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
