"""Every kind of block, norm and MLP as segments: their networks beside transformers, and plans of
them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import tensorrt_rtx as trt
import torch
from fakes.family import tiny_model
from fakes.trt_network import interpreted
from transformers import (
    FalconConfig,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    PhiConfig,
    PreTrainedConfig,
    Qwen3Config,
)

from nimlite.engine.evaluate import prompt_logits
from nimlite.kernels.torch_kernels import TorchKernels
from nimlite.profiles.manifest import Precision
from nimlite.quant import unpack
from nimlite.quant.base import PackedWeight
from nimlite.tensorrt.decoder import SegmentedDecoder, Tensors, segment_weights
from nimlite.tensorrt.plan import PlanRequest, build_plan
from nimlite.tensorrt.segment import beyond, segments

TINY = {
    "vocab_size": 272,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "eos_token_id": 256,
    "pad_token_id": None,
}
SMALL = {name: TINY[name] for name in list(TINY)[:5] if name != "intermediate_size"}
GROUPED = TINY | {"num_key_value_heads": 2, "head_dim": 32}
CASES: dict[str, Callable[[], PreTrainedConfig]] = {
    "qwen3": lambda: Qwen3Config(**GROUPED),
    "gemma": lambda: GemmaConfig(**GROUPED),
    "gemma2": lambda: Gemma2Config(**GROUPED, sliding_window=21, attn_logit_softcapping=5.0),
    "gpt2": lambda: GPT2Config(vocab_size=272, n_embd=64, n_layer=2, n_head=4, n_positions=128),
    "gpt-neox": lambda: GPTNeoXConfig(**TINY, rotary_pct=0.5),
    "falcon": lambda: FalconConfig(**SMALL),
    "phi": lambda: PhiConfig(**TINY, hidden_act="relu", partial_rotary_factor=0.5),
}
TEXT = list(b"Fourscore and seven years ago our fathers brought forth")


def plain(weight: PackedWeight) -> Tensors:
    return {"": unpack(weight)}


@pytest.mark.parametrize("name", CASES)
def test_the_segments_of_a_family_compute_what_transformers_does(name: str, tmp_path: Path) -> None:
    # Gemma scales what it embeds
    model = tiny_model(CASES[name](), tmp_path, 0.5 if name.startswith("gemma") else 4.0)
    assert beyond(model.spec) == ()
    parts = {part.kind: part for part in segments(model.spec, dtype="fp32", max_tokens=64)}
    decoder = SegmentedDecoder(
        decoder=model.decoder(),
        run=interpreted(*parts.values()),
        weights=segment_weights(parts, model.weights(Precision.FP32), plain),
    )
    found_TV = prompt_logits(decoder, TorchKernels(), TEXT, num_decoded=4)
    torch.testing.assert_close(found_TV, model.reference_logits(TEXT), atol=1e-4, rtol=0)
    middle = segments(model.spec, dtype="fp16", max_tokens=64)[1]
    assert build_plan(trt, PlanRequest(segment=middle, targets=((8, 9),)))
