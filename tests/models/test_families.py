"""Every family against transformers: a whole text, and 32 tokens written one by one, whatever runs
beside it and however its prompt is cut."""

from pathlib import Path

import pytest
import torch
from fakes.driving import Outcome, drive, request
from fakes.families import CASES, DROPPED, family_model

from nimlite.build.reference import Reference
from nimlite.engine.engine import Engine
from nimlite.engine.evaluate import prompt_logits
from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.kernels.torch_kernels import TorchKernels

TEXT = b"Fourscore and seven years ago our fathers brought forth, on this continent, a new nation"
PROMPT = TEXT[:50]
NUM_WRITTEN = 32


@pytest.mark.parametrize("name", [*CASES, *DROPPED])
def test_a_family_computes_what_others_do(name: str, kernels: CpuKernels, tmp_path: Path) -> None:
    model = family_model(name, tmp_path)

    def write(engine: Engine, *beside: bytes) -> Outcome:
        params = {"max_tokens": NUM_WRITTEN, "ignore_eos": True, "temperature": 1.0, "seed": 1}
        others = [request(str(i), text, max_tokens=9) for i, text in enumerate(beside)]
        return drive(engine, *others, request("probe", PROMPT, logprobs=1, **params))["probe"]

    engine = model.engine(kernels)
    alone = write(engine)
    assert write(engine).num_cached_tokens == 48
    for outcome in (
        write(engine),
        write(model.engine(kernels, max_num_tokens=13)),
        write(model.engine(kernels), TEXT[30:], TEXT[:7]),
    ):
        assert outcome.token_ids == alone.token_ids
        assert outcome.logprobs == alone.logprobs

    text = [*PROMPT, *alone.token_ids]
    expected_TV = model.reference_logits(text)
    assert expected_TV.std() > 0.5  # it says something
    assert len(set(alone.token_ids)) > 3
    log_p_WV = expected_TV[len(PROMPT) - 1 : -1].log_softmax(1)
    for token_id, logprob, log_p_V in zip(alone.token_ids, alone.logprobs, log_p_WV, strict=True):
        assert logprob.logprob == pytest.approx(float(log_p_V[token_id]), abs=1e-4)
    (reference_TV,) = Reference(model.checkpoint, model.spec)([text])
    for found_TV in (
        prompt_logits(model.decoder(), kernels, text, num_decoded=NUM_WRITTEN),
        prompt_logits(model.decoder(), TorchKernels(), text),
        reference_TV,
    ):
        torch.testing.assert_close(found_TV, expected_TV, atol=1e-4, rtol=0)
