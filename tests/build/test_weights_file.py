from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nimlite.build.weights_file import WeightsWriter, load_weights, weights_name
from nimlite.quant import SCHEMES, unpack
from nimlite.quant.base import PackedWeight

WEIGHT_NC = torch.randn(70, 96, generator=torch.Generator().manual_seed(0))
NORM_D = torch.tensor([1.0, 2.0, 3.0])


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    with WeightsWriter(tmp_path / weights_name(0), num_tensors=1 + len(SCHEMES)) as writer:
        writer.add("norm", NORM_D)
        for name, scheme in SCHEMES.items():
            writer.add(name, scheme.pack(WEIGHT_NC))
    return tmp_path


def test_what_was_written_is_read(directory: Path) -> None:
    weights = load_weights(directory)
    assert weights.keys() == {"norm", *SCHEMES}
    norm = weights["norm"]
    assert isinstance(norm, torch.Tensor) and torch.equal(norm, NORM_D)
    for name, scheme in SCHEMES.items():
        found, expected = weights[name], scheme.pack(WEIGHT_NC)
        assert isinstance(found, PackedWeight)
        assert (found.scheme, found.num_rows, found.num_columns) == (name, 70, 96)
        assert torch.equal(unpack(found), unpack(expected))


def test_tensors_are_mapped_and_on_cache_lines(directory: Path) -> None:
    maps = Path("/proc/self/maps")
    for weight in load_weights(directory).values():
        parts = weight.tensors.values() if isinstance(weight, PackedWeight) else [weight]
        for tensor in parts:
            assert tensor.data_ptr() % 64 == 0
            assert _file_mapped_at(tensor.data_ptr(), maps.read_text()).endswith(weights_name(0))


def test_it_is_a_plain_safetensors_file(directory: Path) -> None:
    tensors = load_file(directory / weights_name(0))
    assert tensors["int8.weight"].dtype == torch.uint8


def _file_mapped_at(address: int, maps: str) -> str:
    for line in maps.splitlines():
        first, last = (int(end, 16) for end in line.split(" ")[0].split("-"))
        if first <= address < last:
            return line
    raise AssertionError("not mapped")
