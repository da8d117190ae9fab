"""A decoder of the GPU's own kernels beside the same decoder whose dense layers are segments'
networks: the same packed weights, the same paged attention."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from fakes.trt_network import TINY_SPEC, interpreted

from nimlite.engine.evaluate import prompt_logits
from nimlite.kernels.base import KVLayout
from nimlite.kernels.triton.kernels import TritonKernels
from nimlite.kernels.triton.weights import FP16_ROWS, INT8_ROWS, W4A16
from nimlite.layers.decoder import Decoder
from nimlite.models.registry import weight_sources
from nimlite.quant.base import PackedWeight, Scheme
from nimlite.tensorrt.decoder import RunSegment, SegmentedDecoder, Tensors, segment_weights
from nimlite.tensorrt.segment import WeightFormat, segments
from nimlite.tensorrt.weights import binder

WHERE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
TEXT = [5, 17, 200]
SPEC = replace(TINY_SPEC, num_layers=2)


def random_weights(scheme: Scheme) -> Mapping[str, PackedWeight | torch.Tensor]:
    """In fp16 (bf16 products are wrong in Triton's interpreter), and the layers' in the scheme."""
    generator = torch.Generator().manual_seed(0)
    weights: dict[str, PackedWeight | torch.Tensor] = {}
    for name, source in weight_sources(SPEC).items():
        tensor = torch.randn(source.shape, generator=generator).to(WHERE)
        if tensor.ndim == 1:
            weights[name] = 1 + 0.2 * tensor
        else:
            held = FP16_ROWS if name in ("embedding", "head") else scheme
            weights[name] = held.pack(tensor * 1.5 * tensor.shape[1] ** -0.5)
    return weights


def on_cpu(run: RunSegment) -> RunSegment:
    """A network's constants are there."""

    def moved(inputs: Tensors) -> Tensors:
        outputs = run({name: tensor.cpu() for name, tensor in inputs.items()})
        return {name: tensor.to(WHERE) for name, tensor in outputs.items()}

    return moved


@pytest.mark.parametrize(
    ("scheme", "format", "bound"),
    [
        (FP16_ROWS, "dense", 0.003),
        (W4A16, "int4", 0.003),
        # a bit less in x moves some values to the next of few
        (INT8_ROWS, "int8_dynamic", 0.05),
    ],
)
@torch.inference_mode()
def test_segments_agree_with_the_gpus_kernels(
    scheme: Scheme, format: WeightFormat, bound: float
) -> None:
    weights = random_weights(scheme)
    kernels = TritonKernels(WHERE, torch.float16, max_sequences=4)
    layout = KVLayout(1, 16, SPEC.num_kv_heads, SPEC.head_dim, torch.float16)
    decoder = Decoder.load(SPEC, weights, layout)
    parts = {
        part.kind: part for part in segments(SPEC, dtype="fp16", weights=format, max_tokens=64)
    }
    segmented = SegmentedDecoder(
        decoder=decoder,
        run={kind: on_cpu(run) for kind, run in interpreted(*parts.values()).items()},
        weights=segment_weights(parts, weights, binder(format)),
    )
    expected_TV, found_TV = (prompt_logits(model, kernels, TEXT) for model in (decoder, segmented))
    assert float((found_TV - expected_TV).norm() / expected_TV.norm()) < bound
