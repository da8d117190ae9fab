"""What a build for a GPU does with weights, on the CPU: packed in rows, kept, written, streamed."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from fakes.candidate import LogitsOnly
from fakes.llama import Llama, random_llama
from safetensors.torch import load_file

from nimlite.build.builder import BuildJob, build_engine
from nimlite.build.convert import convert, convert_on_device
from nimlite.build.engine_dir import open_engine
from nimlite.build.random import RandomCheckpoint
from nimlite.build.reference import Reference
from nimlite.build.selftest import Candidate, self_test
from nimlite.build.staging import Staging
from nimlite.build.weights_file import (
    DamagedBlockError,
    load_weights,
    stream_weights,
    weights_name,
    write_weights,
)
from nimlite.engine.gpu import gpu_scheme, products
from nimlite.errors import ChecksumError
from nimlite.kernels.triton.weights import SCHEMES
from nimlite.layers.linear import Weights
from nimlite.layers.shard import WHOLE
from nimlite.models.registry import weight_sources
from nimlite.models.spec import ModelSpec
from nimlite.observe.progress import SILENT, Progress
from nimlite.profiles.manifest import Precision
from nimlite.quant.base import PackedWeight, Scheme
from nimlite.store.block_digest import BLOCK_BYTES, BlockDigests, digest_blocks

CPU = torch.device("cpu")
_ROUNDING = {
    Precision.FP8: 0.04,
    Precision.INT8_SQ: 0.01,
    Precision.INT8_WO: 0.01,
    Precision.INT4_AWQ: 0.12,
}
"""What rounding a weight to nearest costs of its norm."""


@dataclass(frozen=True)
class RowsTarget:
    """A GPU's formats on the CPU. Its logits are the reference's: kernels are tested elsewhere."""

    llama: Llama
    precision: Precision
    device: torch.device = CPU
    keeps_weights: bool = True

    def scheme(self, name: str, num_columns: int) -> Scheme:
        return gpu_scheme(name, self.precision, num_columns)

    def prepare(self, spec: ModelSpec, directory: Path, progress: Progress) -> None:
        assert directory.name.endswith(".building")

    def logits(
        self, spec: ModelSpec, weights: Weights, directory: Path, progress: Progress
    ) -> Candidate:
        return LogitsOnly(Reference(self.llama.checkpoint, spec))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Llama:
    return random_llama(tmp_path_factory.mktemp("llama"), attention_bias=True)


@pytest.fixture(params=[Precision.BF16, Precision.FP16, *_ROUNDING])
def target(llama: Llama, request: pytest.FixtureRequest) -> RowsTarget:
    return RowsTarget(llama, request.param)


def assert_equal(found: Weights, expected: Weights) -> None:
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        other = found[name]
        if isinstance(weight, torch.Tensor):
            assert isinstance(other, torch.Tensor) and torch.equal(other, weight)
            continue
        assert isinstance(other, PackedWeight)
        assert (other.scheme, other.num_rows, other.num_columns) == (
            weight.scheme,
            weight.num_rows,
            weight.num_columns,
        )
        for part, tensor in weight.tensors.items():
            assert other.tensors[part].dtype == tensor.dtype
            assert torch.equal(other.tensors[part].float(), tensor.float()), name


def test_weights_on_a_device_are_those_of_the_file(
    llama: Llama, target: RowsTarget, tmp_path: Path
) -> None:
    kept = convert_on_device(llama.checkpoint, llama.spec, target, WHOLE, SILENT)
    convert(llama.checkpoint, llama.spec, target, 1, tmp_path, SILENT)
    assert_equal(load_weights(tmp_path), kept)
    one_by_one = (tmp_path / weights_name(0)).read_bytes()
    write_weights(tmp_path / weights_name(0), kept, CPU)
    assert (tmp_path / weights_name(0)).read_bytes() == one_by_one
    digests = digest_blocks(tmp_path / weights_name(0))
    streamed = stream_weights(tmp_path / weights_name(0), digests, CPU)
    assert_equal(streamed, kept)
    qkv = streamed["layers.0.qkv"]
    assert isinstance(qkv, PackedWeight)
    read = load_file(tmp_path / weights_name(0))["layers.0.qkv.weight"]
    assert torch.equal(read.view(torch.uint8), qkv.tensors["weight"].view(torch.uint8))
    unpacked = SCHEMES[qkv.scheme].unpack(qkv)
    parts = [f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkv"]
    exact = torch.cat([llama.checkpoint.tensor(part) for part in parts])
    rounding = _ROUNDING.get(target.precision, 0.003)
    assert (unpacked - exact).norm() < rounding * exact.norm()


def test_a_large_file_is_streamed_in_blocks(tmp_path: Path) -> None:
    weights = {
        name: torch.randint(256, (BLOCK_BYTES // 2 + 77,), dtype=torch.uint8) for name in "abcde"
    }
    write_weights(tmp_path / "w", weights, CPU)
    digests = digest_blocks(tmp_path / "w")
    assert digests.num_blocks == 3
    assert_equal(stream_weights(tmp_path / "w", digests, CPU), weights)
    wrong = BlockDigests(digests.size, (*digests.sha256[:2], "0" * 64))
    with pytest.raises(DamagedBlockError, match=r"sha256 of block 2 is .* instead of 0000"):
        stream_weights(tmp_path / "w", wrong, CPU)


def test_an_engine_is_built_from_weights_that_stay(
    llama: Llama, target: RowsTarget, tmp_path: Path
) -> None:
    job = BuildJob(
        checkpoint=llama.checkpoint,
        profile=llama.profile(target.precision),
        device="a GPU",
        model_name="Tiny",
        served_name="tiny",
        source="test",
    )
    home = tmp_path / "engine"
    built = build_engine(job, home, SILENT, target)
    assert built.held is not None and built.weights_on(CPU) is built.held
    again = build_engine(job, home, SILENT, target)
    assert again.held is None
    assert_equal(again.weights_on(CPU), built.held)
    weights = home / weights_name(0)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ChecksumError, match=r"rank0\.safetensors is damaged: the sha256 of block"):
        open_engine(home, verify_weights=False).weights_on(CPU)


def test_a_checkpoint_is_read_by_descriptor(llama: Llama) -> None:
    for name in llama.checkpoint.names:
        stored = llama.checkpoint.stored(name, Staging(block_bytes=1000))
        assert torch.equal(stored.float(), llama.checkpoint.tensor(name))


def test_the_reference_reads_what_random_weights_give(llama: Llama) -> None:
    checkpoint = RandomCheckpoint(llama.checkpoint.config)
    prompts = [[1, 2, 3], [4]]
    report = self_test(
        Reference(checkpoint, llama.spec), Reference(checkpoint, llama.spec, CPU), prompts
    )
    assert report.max_absolute_error == 0


def test_products_are_all_matrices_but_an_untied_embedding(llama: Llama) -> None:
    shapes = {name: s.shape for name, s in weight_sources(llama.spec).items()}
    assert shapes["layers.0.qkv"] == (llama.spec.qkv_size, llama.spec.hidden_size)
    found = {(scheme.name, n, c) for scheme, n, c in products(llama.spec, Precision.FP8)}
    size, inner = llama.spec.hidden_size, llama.spec.intermediate_size
    assert ("bf16_rows", llama.spec.vocab_size, size) in found
    assert ("fp8_rows", 2 * inner, size) in found and ("fp8_rows", size, inner) in found
    assert len(found) == 5
