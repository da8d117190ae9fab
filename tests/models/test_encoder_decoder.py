"""Encoder-decoders against transformers."""

import pytest
import torch
from fakes.driving import Outcome, drive, request
from fakes.encoder_decoders import CASES, TinyEncoderDecoder, encoder_decoder

from nimlite.build.reference import Reference
from nimlite.engine.engine import Engine
from nimlite.engine.evaluate import prompt_logits
from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.kernels.torch_kernels import TorchKernels

TEXT = b"Fourscore and seven years ago our fathers brought forth, on this continent, a new nation"


@pytest.fixture(scope="module", params=CASES)
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> TinyEncoderDecoder:
    return encoder_decoder(request.param, tmp_path_factory.mktemp("encoder-decoder"))


def test_a_whole_text_and_one_token_by_token(
    model: TinyEncoderDecoder, kernels: CpuKernels
) -> None:
    text = list(TEXT[:70])
    expected_TV = model.reference_logits(text)
    assert expected_TV.std() > 0.5  # it says something
    (reference_TV,) = Reference(model.checkpoint, model.spec)([text])
    for found_TV in (
        reference_TV,
        prompt_logits(model.decoder(), TorchKernels(), text),
        prompt_logits(model.decoder(), kernels, text),
        prompt_logits(model.decoder(), kernels, text, num_decoded=32),
    ):
        torch.testing.assert_close(found_TV, expected_TV, atol=1e-4, rtol=0)


def test_requests_of_mixed_lengths_join_and_leave(
    model: TinyEncoderDecoder, kernels: CpuKernels
) -> None:
    """The same tokens with the same probabilities, alone and beside others, from the cache, in
    chunks and after a preemption; and they are transformers'."""
    prompt = TEXT[:50]

    def write(engine: Engine, *beside: bytes) -> Outcome:
        params = {"max_tokens": 32, "ignore_eos": True, "temperature": 1.0, "seed": 1}
        others = [request(str(i), text, max_tokens=20) for i, text in enumerate(beside)]
        return drive(engine, *others, request("probe", prompt, logprobs=1, **params))["probe"]

    engine = model.engine(kernels)
    alone = write(engine)
    assert alone.num_cached_tokens == 0
    assert write(engine).num_cached_tokens == 50
    crowded = model.engine(kernels, num_blocks=10)
    for outcome in (
        write(engine),
        write(model.engine(kernels, prefix_caching=False)),
        write(model.engine(kernels, max_num_tokens=50), TEXT[30:60], TEXT[:7], TEXT[:33]),
        write(crowded, TEXT[:40]),
    ):
        assert outcome.token_ids == alone.token_ids
        assert outcome.logprobs == alone.logprobs
    assert crowded.stats.num_preemptions
    assert write(model.engine(TorchKernels()), TEXT[:7]).token_ids == alone.token_ids

    assert len(set(alone.token_ids)) > 3
    text = [*model.spec.decoder_prompt, *alone.token_ids]
    expected_TV = model.reference_logits(text, source=prompt)
    log_p_WV = expected_TV[len(model.spec.decoder_prompt) - 1 : -1].log_softmax(1)
    for token_id, logprob, log_p_V in zip(alone.token_ids, alone.logprobs, log_p_WV, strict=True):
        assert logprob.logprob == pytest.approx(float(log_p_V[token_id]), abs=1e-4)
