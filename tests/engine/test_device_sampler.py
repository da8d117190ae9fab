"""A step is launched before the tokens of the one before are known to the host: nothing but the
time at which they arrive may change."""

import pytest
import torch
from fakes.driving import drive, request
from fakes.llama import Llama

from nimlite.engine.device_sampler import DeviceSampler
from nimlite.engine.request import Grammar, GrammarKind, Request
from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.kernels.triton.sample import SampleConfig

SMALL = SampleConfig(block=512, capacity=256, num_warps=4)
FORM = Grammar(
    GrammarKind.JSON_SCHEMA,
    '{"type": "object", "properties": {"a": {"type": "string", "maxLength": 5}, "b": {"enum": [1, '
    '"x", null]}}, "required": ["a", "b"], "additionalProperties": false}',
)
TEXT = b"We hold these truths to be self-evident, that all men are created equal."


def mixed_requests() -> list[Request]:
    """Every way to choose and to end, with prompts of all lengths and shared ones."""
    sampled = {"temperature": 0.9, "seed": 3, "max_tokens": 12, "ignore_eos": True}
    return [
        request("greedy", TEXT, max_tokens=15),
        request("sampled", TEXT[:40], **sampled, top_p=0.8, top_k=20, logprobs=2),
        request("penalized", TEXT[:9], **sampled, frequency_penalty=1.5, repetition_penalty=1.3),
        request(
            "biased",
            TEXT[5:30],
            max_tokens=12,
            logit_bias={65: 30.0},
            stop_token_ids=(65,),
            min_tokens=4,
        ),
        request("short", TEXT[3:4], max_tokens=1),
        request("scored", TEXT[:50], max_tokens=3, prompt_logprobs=1),
        *(request(f"fork-{i}", TEXT[:35], group="g", **(sampled | {"seed": i})) for i in range(3)),
        *(
            request(f"form-{i}", TEXT[:33], group="f", grammar=FORM, **one)
            for i, one in enumerate(({"max_tokens": 22}, sampled | {"logprobs": 1}))
        ),
    ]


@pytest.mark.parametrize(
    "limits", [{}, {"max_num_tokens": 16}, {"num_blocks": 14}, {"max_batch_size": 3}]
)
def test_running_ahead_changes_no_token(tiny: Llama, kernels: CpuKernels, limits):
    def outcomes(*, lookahead: bool):
        sampler = DeviceSampler(64, torch.device("cpu"), lookahead=lookahead, config=SMALL)
        return drive(tiny.engine(kernels, **limits, sampler=sampler), *mixed_requests())

    assert outcomes(lookahead=True) == outcomes(lookahead=False)
