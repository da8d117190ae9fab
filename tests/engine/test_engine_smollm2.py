"""The engine on the embedded model, against transformers on the same weights."""

from importlib import resources
from pathlib import Path

import pytest
import torch
from fakes.driving import Outcome, drive, request
from fakes.llama import Llama
from tokenizers import Tokenizer

from nimlite.engine.evaluate import prompt_logits
from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.profiles.manifest import Precision

LENGTHS = [1, 2, 15, 33, 64, 131, 300, 600]
NUM_OUTPUTS = 64


@pytest.fixture(scope="module")
def prompts(smollm2: Llama) -> list[list[int]]:
    """Beginnings of a different prose each."""
    tokenizer = Tokenizer.from_file(str(smollm2.tokenizer_directory / "tokenizer.json"))
    data = sorted(
        (Path(str(file)) for file in resources.files("nimlite.build").joinpath("data").iterdir()),
        key=lambda file: file.name,
    )
    text = " ".join(file.read_text(encoding="utf-8") for file in data if file.suffix == ".txt")
    token_ids = tokenizer.encode(text).ids
    starts = range(0, len(token_ids) - LENGTHS[-1], (len(token_ids) - LENGTHS[-1]) // 8)
    return [token_ids[i:][:n] for i, n in zip(starts, LENGTHS, strict=False)]


def test_logits_and_greedy_text_equal_transformers(
    smollm2: Llama, prompts: list[list[int]], kernels: CpuKernels
) -> None:
    engine = smollm2.engine(kernels, max_num_tokens=512)
    settings = {"max_tokens": NUM_OUTPUTS, "ignore_eos": True, "logprobs": 0}
    requests = [request(str(i), prompt, **settings) for i, prompt in enumerate(prompts)]
    outcomes = drive(engine, *requests)
    for i, prompt in enumerate(prompts):
        output = list(outcomes[str(i)].token_ids)
        expected_TV = smollm2.reference_logits(prompt + output[:-1])
        found_TV = prompt_logits(smollm2.decoder(), kernels, prompt)
        torch.testing.assert_close(found_TV, expected_TV[: len(prompt)], atol=1e-3, rtol=0)
        # Teacher forcing: where each token is the likeliest behind those before, the texts agree.
        answer_TV = expected_TV[len(prompt) - 1 :]
        assert answer_TV.argmax(dim=1).tolist() == output, f"after {len(prompt)} tokens"
        logprobs = answer_TV.log_softmax(dim=1).max(dim=1).values
        found = [logprob.logprob for logprob in outcomes[str(i)].logprobs]
        torch.testing.assert_close(torch.tensor(found), logprobs, atol=1e-3, rtol=0)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.INT4])
def test_bit_for_bit_however_it_is_computed(
    precision: Precision, smollm2: Llama, prompts: list[list[int]], kernels: CpuKernels
) -> None:
    settings = {"max_tokens": 16, "ignore_eos": True, "logprobs": 3}
    prompt = prompts[5]
    probe = request("probe", prompt, **settings, temperature=0.8, top_p=0.95, seed=3)
    older = request("older", prompts[6][:140], max_tokens=16, ignore_eos=True)
    others = [
        request(str(i), prompts[i % 7][: 2 + 2 * i], max_tokens=1 + i % 16) for i in range(31)
    ]

    def outcome(*requests: object, **limits: int) -> Outcome:
        return drive(smollm2.engine(kernels, precision, **limits), *requests)["probe"]

    expected = outcome(probe)
    chunked = smollm2.engine(kernels, precision, max_num_tokens=48)
    tight = smollm2.engine(kernels, precision, num_blocks=19)
    found = {
        "in chunks": drive(chunked, probe)["probe"],
        "from the prefix cache": drive(chunked, probe)["probe"],
        "after preemption": drive(tight, older, probe)["probe"],
        "beside 31 others": outcome(*others[:16], probe, *others[16:], max_num_tokens=200),
    }
    assert found["from the prefix cache"].num_cached_tokens == 128
    assert tight.stats.num_preemptions
    for name, each in found.items():
        assert each.token_ids == expected.token_ids, name
        assert each.logprobs == expected.logprobs, name
