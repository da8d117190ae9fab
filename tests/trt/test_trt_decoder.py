"""An engine whose dense layers are segments' networks, beside the engine of the same weights."""

from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.llama import Llama, random_llama
from fakes.trt_network import interpreted

from nimlite.engine.request import Request, SamplingParams
from nimlite.kernels.torch_kernels import TorchKernels
from nimlite.layers.decoder import Decoder
from nimlite.profiles.manifest import Precision
from nimlite.quant import unpack
from nimlite.quant.base import PackedWeight
from nimlite.tensorrt.decoder import SegmentedDecoder, Tensors, segment_weights
from nimlite.tensorrt.segment import segments


def plain(weight: PackedWeight) -> Tensors:
    return {"": unpack(weight)}


def segmented(llama: Llama) -> Callable[[Decoder], SegmentedDecoder]:
    parts = {part.kind: part for part in segments(llama.spec, dtype="fp32", max_tokens=1024)}
    weights = segment_weights(parts, llama.weights(Precision.FP32), plain)
    run = interpreted(*parts.values())
    return lambda decoder: SegmentedDecoder(decoder=decoder, run=run, weights=weights)


@pytest.mark.parametrize("num_layers", [1, 3])
def test_an_engine_of_segments_writes_what_the_engine_writes(
    tmp_path: Path, num_layers: int
) -> None:
    """Prompts in chunks, decodes beside them, a beginning that is in the cache."""
    llama = random_llama(tmp_path, num_hidden_layers=num_layers)
    params = SamplingParams(max_tokens=6, temperature=0.0, ignore_eos=True)
    shared = list(range(40, 80))
    prompts = [shared, [*shared, 7], [3], list(range(100, 190))]
    found = []
    for dense in (None, segmented(llama)):
        engine = llama.engine(TorchKernels(), dense=dense, max_num_tokens=32)
        found.append([*engine.generate(prompts, params), *engine.generate(prompts, params)])
    assert found[0] == found[1]
    assert sum(generation.num_cached_tokens for generation in found[1]) > 100


def test_a_prompts_logprobs_come_from_the_rows_that_are_asked_for(tmp_path: Path) -> None:
    llama = random_llama(tmp_path)
    params = SamplingParams(max_tokens=1, prompt_logprobs=2)
    found = []
    for dense in (None, segmented(llama)):
        engine = llama.engine(TorchKernels(), dense=dense)
        engine.add(Request(id="a", prompt_token_ids=tuple(range(20)), params=params))
        (delta,) = engine.step()
        found.append([logprob.logprob for logprob in delta.prompt_logprobs if logprob])
    assert len(found[1]) == 19
    assert found[1] == pytest.approx(found[0], abs=1e-4)
