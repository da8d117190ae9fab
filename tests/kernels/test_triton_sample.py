import pytest
import torch
from triton_cases import DEVICE, DTYPE, WHERE, random, relative_error

from nimlite.kernels.triton import reference
from nimlite.kernels.triton.argmax import argmax
from nimlite.kernels.triton.penalties import IN_PROMPT, Adjustments, adjust, count
from nimlite.kernels.triton.sample import SampleConfig, SamplingInputs, sample
from nimlite.kernels.triton.token_mask import forbid

VOCABULARY = 1500
CONFIG = SampleConfig(block=512, capacity=256, num_warps=4)


def tensor(values: object, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype, device=WHERE)


def check(
    logits: torch.Tensor,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> list[int]:
    """The kernel's tokens, found equal to the twin's; a row a uniform number."""
    rows = len(logits)
    uniform = torch.rand(rows, generator=torch.Generator().manual_seed(rows)).tolist()
    inputs = SamplingInputs(
        tensor([temperature] * rows),
        tensor([top_k] * rows, torch.int32),
        tensor([top_p] * rows),
        tensor([min_p] * rows),
        tensor(uniform),
    )
    tokens = tensor([-1] * rows, torch.int32)
    sample(logits, inputs, tokens, DEVICE, CONFIG)
    # the kernel's limits are fp32 numbers
    limits = tensor([top_p, min_p]).tolist()
    expected = [
        reference.sample(row, temperature, top_k, *limits, u)
        for row, u in zip(logits, uniform, strict=True)
    ]
    assert tokens.tolist() == expected
    return expected


@pytest.mark.parametrize("vocabulary", [100, 2048, 5000])
@pytest.mark.parametrize("dtype", [DTYPE, torch.float32])
def test_argmax(vocabulary: int, dtype: torch.dtype) -> None:
    logits = random(3, vocabulary, dtype=dtype)
    logits[1, vocabulary - 1] = 9
    logits[2, [7, 60]] = 9
    tokens = tensor([-1] * 3, torch.int32)
    argmax(logits, tokens, DEVICE)
    assert tokens.tolist() == [int(logits[0].argmax()), vocabulary - 1, 7]


@pytest.mark.parametrize("scale", [0.1, 1, 8])
@pytest.mark.parametrize(
    "limits",
    [
        {"temperature": 0.0},
        {},
        {"temperature": 0.3},
        {"top_k": 1},
        {"top_k": 40},
        {"top_k": 700},
        {"top_p": 0.2},
        {"top_p": 0.95},
        {"min_p": 0.05},
        {"min_p": 0.2, "top_k": 30, "top_p": 0.7, "temperature": 1.7},
        {"top_k": 900, "top_p": 0.9},
    ],
    ids=str,
)
def test_draws_of_flat_and_peaked_distributions(scale: float, limits: dict[str, float]) -> None:
    check(scale * random(4, VOCABULARY, dtype=torch.float32), **limits)


def test_rows_of_16_bits_and_forbidden_tokens() -> None:
    logits = 3 * random(6, VOCABULARY)
    logits[:, ::2] = -torch.inf
    assert all(token % 2 for token in check(logits))
    assert all(token % 2 for token in check(logits, top_k=20))
    assert all(token % 2 for token in check(logits, top_p=0.999))


def test_equal_logits_at_a_limit_are_all_kept() -> None:
    logits = torch.zeros((32, VOCABULARY), device=WHERE)
    logits[:, [3, 500, 900]] = 5.0
    assert set(check(logits, top_k=2)) == {3, 500, 900}


def test_every_row_has_its_own_limits() -> None:
    logits = random(3, VOCABULARY, dtype=torch.float32)
    inputs = SamplingInputs(
        tensor([0.0, 1.0, 0.5]),
        tensor([0, 5, 0], torch.int32),
        tensor([1.0, 1.0, 0.5]),
        tensor([0.0, 0.0, 0.1]),
        tensor([0.1, 0.5, 0.999]),
    )
    tokens = tensor([-1] * 3, torch.int32)
    sample(logits, inputs, tokens, DEVICE, CONFIG)
    expected = [
        reference.sample(logits[0], 0.0, 0, 1.0, 0.0, 0.1),
        reference.sample(logits[1], 1.0, 5, 1.0, 0.0, 0.5),
        reference.sample(logits[2], 0.5, 0, 0.5, float(inputs.min_p_R[2]), 0.999),
    ]
    assert tokens.tolist() == expected


def test_penalties_and_biases() -> None:
    logits = random(3, 5000, dtype=torch.float32)
    outputs, prompt = [5, 5, 4999, 17], [17, 4500]
    penalties = (1.3, 0.5, 0.25)
    biases = {5: 1.0, 4100: -torch.inf}
    seen = torch.zeros((2, 5000), dtype=torch.int16, device=WHERE)
    seen[1, prompt] = IN_PROMPT
    rows = tensor([-1, 1, -1], torch.int32)
    for token in outputs:
        count(tensor([9, token, 9], torch.int32), seen, rows, DEVICE)
    assert int(seen[0].sum()) == 0
    ids, values = list(biases), list(biases.values())
    adjusted = logits.clone()
    adjust(
        adjusted,
        Adjustments(
            seen,
            rows,
            tensor([(1.0, 0.0, 0.0), penalties, (1.0, 0.0, 0.0)]),
            tensor([[-1, -1], ids, [3, -1]], torch.int32),
            tensor([[0.0, 0.0], values, [2.0, 0.0]]),
        ),
        DEVICE,
    )
    expected = logits.clone()
    expected[1] = reference.adjust(logits[1], outputs, prompt, penalties, biases)
    expected[2, 3] += 2
    assert adjusted[1, 4100] == expected[1, 4100] == -torch.inf
    adjusted[1, 4100] = expected[1, 4100] = 0
    assert relative_error(adjusted, expected) < 1e-6


@pytest.mark.parametrize("vocabulary", [31, 100, 4096, 9001])
@pytest.mark.parametrize("dtype", [DTYPE, torch.float32])
def test_only_tokens_with_a_bit_keep_their_logits(vocabulary: int, dtype: torch.dtype) -> None:
    logits = random(5, vocabulary, dtype=dtype)
    num_words = -(-vocabulary // 32) + 1  # one more than needed
    bits = torch.randint(-(2**31), 2**31, (3, num_words)).to(torch.int32)
    bits[1], bits[2] = -1, 0
    rows = [3, 0, 1]
    expected = logits.clone()
    for row, words in zip(rows, bits, strict=True):
        expected[row] = reference.forbid(logits[row], words.to(WHERE))
    forbid(logits, tensor(rows, torch.int32), bits.to(WHERE), DEVICE)
    assert torch.equal(logits, expected)
    assert torch.isinf(logits[1]).all() and not torch.isinf(logits[[0, 2, 4]]).any()
    assert 0 < int(torch.isinf(logits[3]).sum()) < vocabulary
