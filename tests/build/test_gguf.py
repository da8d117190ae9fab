from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from fakes.gguf_file import write_gguf
from fakes.llama import Llama, random_llama

from nimlite.build.checkpoint import open_checkpoint
from nimlite.build.gguf import hugging_face_name
from nimlite.errors import ModelError
from nimlite.models.registry import read_spec

Type = gguf.GGMLQuantizationType


@pytest.mark.parametrize(
    "shape",
    [{}, {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}],
    ids=["plain", "everything"],
)
def test_a_gguf_is_the_model_it_was_made_of(tmp_path: Path, shape: dict[str, Any]) -> None:
    llama = random_llama(tmp_path, **shape)
    read = open_checkpoint(write_gguf(tmp_path / "tiny.gguf", llama.reference))
    assert read_spec(read.config) == llama.spec
    assert read.names == llama.checkpoint.names
    for name in read.names:
        assert torch.equal(read.tensor(name), llama.checkpoint.tensor(name)), name


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (Type.F16, 1e-3),
        (Type.BF16, 4e-3),
        (Type.Q8_0, 0.01),
        (Type.Q5_0, 0.06),
        (Type.Q5_1, 0.06),
        (Type.Q4_0, 0.12),
        (Type.Q4_1, 0.12),
    ],
)
def test_quantized_tensors_come_back_as_near_as_they_can(
    tmp_path: Path, kind: gguf.GGMLQuantizationType, error: float
) -> None:
    llama = random_llama(tmp_path)
    read = open_checkpoint(write_gguf(tmp_path / "tiny.gguf", llama.reference, quantization=kind))
    for name in read.names:
        expected = llama.checkpoint.tensor(name)
        assert (read.tensor(name) - expected).norm() <= error * expected.norm(), name


def _six_bits(block: np.ndarray, j: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale and minimum of the j-th 32 values of a Q4_K or Q5_K block."""
    packed = block[:, 4:16].astype(int)
    if j < 4:
        return packed[:, j] & 63, packed[:, j + 4] & 63
    low, high = packed[:, j + 4] & 15, packed[:, j + 4] >> 4
    return low | packed[:, j - 4] >> 6 << 4, high | packed[:, j] >> 6 << 4


def _q4_or_q5_k(block: np.ndarray, *, five: bool) -> np.ndarray:
    """By ggml's description: d * scale * value - d_min * minimum, the fifth bits in a mask."""
    d, d_min = block[:, :4].copy().view(np.float16).astype(np.float32).T
    fields = block[:, 48 if five else 16 :].astype(int)
    parts = []
    for j in range(8):
        pair = fields[:, 32 * (j // 2) : 32 * (j // 2 + 1)]
        values = pair >> 4 if j % 2 else pair & 15
        if five:
            values = values + 16 * (block[:, 16:48].astype(int) >> j & 1)
        scale, minimum = _six_bits(block, j)
        parts.append((d * scale)[:, None] * values - (d_min * minimum)[:, None])
    return np.concatenate(parts, axis=1)


def _q6_k(block: np.ndarray) -> np.ndarray:
    """By ggml's description: four low and two high bits, a scale for 16 values."""
    low, high = block[:, :128].astype(int), block[:, 128:192].astype(int)
    scales = block[:, 192:208].view(np.int8).astype(np.float32)
    d = block[:, 208:].copy().view(np.float16).astype(np.float32)
    parts = []
    for half in range(2):
        bytes_4, bytes_2 = low[:, 64 * half :][:, :64], high[:, 32 * half :][:, :32]
        for quarter in range(4):
            nibbles = bytes_4[:, 32 * (quarter % 2) :][:, :32]
            nibbles = nibbles >> 4 if quarter >= 2 else nibbles & 15
            values = (nibbles | (bytes_2 >> 2 * quarter & 3) << 4) - 32
            each = np.repeat(scales[:, 8 * half + 2 * quarter :][:, :2], 16, axis=1)
            parts.append(d * each * values)
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize(
    ("kind", "dequantize"),
    [
        (Type.Q4_K, partial(_q4_or_q5_k, five=False)),
        (Type.Q5_K, partial(_q4_or_q5_k, five=True)),
        (Type.Q6_K, _q6_k),
    ],
)
def test_k_quants_are_what_ggml_describes(
    tmp_path: Path, kind: gguf.GGMLQuantizationType, dequantize: Callable[[np.ndarray], np.ndarray]
) -> None:
    llama = random_llama(tmp_path, hidden_size=256, intermediate_size=256, num_hidden_layers=1)
    path = write_gguf(tmp_path / "tiny.gguf", llama.reference, quantization=kind)
    read = open_checkpoint(path)
    for stored in gguf.GGUFReader(path).tensors:
        name = hugging_face_name(stored.name)
        if stored.tensor_type != kind or "attn_q" in stored.name or "attn_k" in stored.name:
            continue  # the rows of queries and keys are in another order
        blocks = np.array(stored.data).reshape(-1, gguf.GGML_QUANT_SIZES[kind][1])
        expected = torch.from_numpy(dequantize(blocks)).float().reshape(-1, 256)
        assert name is not None
        torch.testing.assert_close(read.tensor(name), expected, rtol=1e-5, atol=1e-5)


def test_a_type_that_is_not_read_is_named(llama: Llama, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", llama.reference, quantization=Type.I8)
    with pytest.raises(
        ModelError, match=r"embed_tokens\.weight in .*tiny\.gguf is I8, which is .* llama-quantize"
    ):
        open_checkpoint(path).tensor("model.embed_tokens.weight")


def _llama31_factors(head_dim: int, theta: float) -> list[float]:
    """The divisors of Llama 3.1 (factor 8): short wavelengths kept, long ones divided, blended
    between."""
    factors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * torch.pi * theta ** (i / head_dim)
        if wavelength < 8192 / 4:
            factors.append(1.0)
        elif wavelength > 8192 / 1:
            factors.append(8.0)
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            factors.append(1 / ((1 - smooth) / 8.0 + smooth))
    return factors


def test_llama31_positions_are_recognised(tmp_path: Path) -> None:
    theta = 500_000.0
    llama = random_llama(
        tmp_path, head_dim=64, rope_parameters={"rope_type": "default", "rope_theta": theta}
    )
    path = tmp_path / "tiny.gguf"
    factors = _llama31_factors(64, theta)
    assert 1.0 in factors and 8.0 in factors and len(set(factors)) > 2
    rope = read_spec(
        open_checkpoint(write_gguf(path, llama.reference, rope_factors=factors)).config
    ).rope
    assert rope.theta == theta and rope.scaling["rope_type"] == "llama3"
    assert rope.scaling["factor"] == 8.0
    odd = [1.0, *factors[:-1]]
    with pytest.raises(ModelError, match=r"rope_freqs\.weight is not Llama 3\.1's scaling"):
        open_checkpoint(write_gguf(path, llama.reference, rope_factors=odd)).config  # noqa: B018


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Llama:
    return random_llama(tmp_path_factory.mktemp("llama"))


def test_a_truncated_file_is_told(llama: Llama, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", llama.reference)
    whole = path.read_bytes()
    for size in (10, 5_000, len(whole) - 1000):
        path.write_bytes(whole[:size])
        with pytest.raises(
            ModelError, match=r"tiny\.gguf can't be read as GGUF .* download it again"
        ):
            open_checkpoint(path).config  # noqa: B018


def test_another_architecture_is_named(llama: Llama, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", llama.reference, architecture="gemma3")
    with pytest.raises(ModelError, match="architecture 'gemma3'; supported are llama"):
        open_checkpoint(path).config  # noqa: B018


def test_the_embedded_model(smollm2_gguf: Path) -> None:
    checkpoint = open_checkpoint(smollm2_gguf)
    spec = read_spec(checkpoint.config)
    assert (spec.num_layers, spec.hidden_size, spec.num_heads, spec.num_kv_heads) == (30, 576, 9, 3)
    assert (spec.rope.theta, spec.norm_eps, spec.tie_embeddings) == (1e5, 1e-5, True)
    assert len(checkpoint.names) == 272
    assert "HuggingFaceTB, licence apache-2.0" in checkpoint.provenance
    assert "Apache License" in checkpoint.license_files[0].read_text()
