from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from fakes.gguf_file import write_gguf
from fakes.llama import Llama, random_llama

from nimlite.build.checkpoint import open_checkpoint
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
    ("kind", "error"), [(Type.F16, 1e-3), (Type.Q8_0, 0.01), (Type.Q4_1, 0.12)]
)
def test_quantized_tensors_come_back_as_near_as_they_can(
    tmp_path: Path, kind: gguf.GGMLQuantizationType, error: float
) -> None:
    llama = random_llama(tmp_path)
    read = open_checkpoint(write_gguf(tmp_path / "tiny.gguf", llama.reference, quantization=kind))
    for name in read.names:
        expected = llama.checkpoint.tensor(name)
        assert (read.tensor(name) - expected).norm() <= error * expected.norm(), name


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
