"""Embeddings from the engine: every pooling against transformers' hidden states, whatever runs
beside a text and however it is cut."""

import pytest
import torch
from fakes.driving import drive, request
from fakes.llama import Llama

from nimlite.engine.request import Request, SamplingParams
from nimlite.errors import ContextLengthError, RequestError
from nimlite.kernels.base import Kernels
from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.kernels.torch_kernels import TorchKernels
from nimlite.models.embedding import Pooling

TEXTS = [
    b"Fourscore and seven years ago our fathers brought forth",
    b"a",
    b"on this continent, a new nation, conceived in Liberty, and dedicated",
]


def expected(model: Llama, text: bytes, pooling: Pooling) -> torch.Tensor:
    with torch.inference_mode():
        x_TD = model.reference.model(torch.tensor([list(text)])).last_hidden_state[0]
    return {Pooling.LAST: x_TD[-1], Pooling.MEAN: x_TD.mean(0), Pooling.CLS: x_TD[0]}[pooling]


@pytest.mark.parametrize("pooling", Pooling)
@pytest.mark.parametrize("is_plain", [False, True])
def test_what_transformers_gives(
    tiny: Llama, kernels: CpuKernels, pooling: Pooling, is_plain: bool
) -> None:
    chosen: Kernels = TorchKernels() if is_plain else kernels
    wanted = [expected(tiny, text, pooling) for text in TEXTS]
    whole, in_chunks = tiny.engine(chosen), tiny.engine(chosen, max_num_tokens=13)
    for engine in (whole, whole, in_chunks, in_chunks):  # the second time, from the prefix cache
        for found_D, wanted_D in zip(engine.embed(TEXTS, pooling), wanted, strict=True):
            torch.testing.assert_close(torch.from_numpy(found_D), wanted_D, atol=1e-4, rtol=0)
    hits = whole.stats.num_prefix_hits
    assert (hits > 0) == (pooling is Pooling.LAST)  # the others need every token's state


def test_beside_texts_that_are_generated(tiny: Llama, kernels: CpuKernels) -> None:
    writing = [request(str(i), text, max_tokens=20) for i, text in enumerate(TEXTS)]
    alone = drive(tiny.engine(kernels), *writing)
    engine = tiny.engine(kernels, max_num_tokens=29)
    for each in writing:
        engine.add(each)
    to_embed = Request(
        id="embed",
        prompt_token_ids=tuple(TEXTS[2]),
        params=SamplingParams(max_tokens=0),
        pooling=Pooling.MEAN,
    )
    deltas = []
    for i in range(100):
        if i == 4:
            engine.add(to_embed)
        deltas += engine.step()
    assert not engine.has_work
    [embedded] = [delta for delta in deltas if delta.request_id == "embed"]
    found_D = torch.frombuffer(bytearray(embedded.embedding), dtype=torch.float32)
    wanted_D = expected(tiny, TEXTS[2], Pooling.MEAN)
    torch.testing.assert_close(found_D, wanted_D, atol=1e-4, rtol=0)
    for name, outcome in alone.items():
        written = [t for d in deltas if d.request_id == name for t in d.token_ids]
        assert tuple(written) == outcome.token_ids
    assert engine.stats.num_free_blocks == engine.stats.num_blocks


def test_a_text_may_fill_the_context_and_no_more(tiny: Llama, kernels: CpuKernels) -> None:
    engine = tiny.engine(kernels, max_model_len=32)
    [found_D] = engine.embed([[7] * 32], Pooling.LAST)
    assert found_D.shape == (tiny.spec.hidden_size,)
    with pytest.raises(ContextLengthError, match="the context of this model holds 32"):
        engine.embed([[7] * 33], Pooling.LAST)
    with pytest.raises(RequestError, match="at least one token"):
        engine.embed([[]], Pooling.LAST)
