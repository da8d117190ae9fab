from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fakes.llama import Llama, random_llama

from nimlite.build.convert import convert
from nimlite.build.sharding import take_shard
from nimlite.build.weights_file import load_weights
from nimlite.errors import ModelError
from nimlite.layers.shard import Shard
from nimlite.models.spec import Stored, WeightSource
from nimlite.observe.progress import Progress
from nimlite.profiles.manifest import Precision
from nimlite.quant import unpack
from nimlite.quant.base import PackedWeight


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Llama:
    return random_llama(tmp_path_factory.mktemp("llama"), attention_bias=True)


def source(*names: str, **changes: Any) -> WeightSource:
    return WeightSource(tensors=tuple(Stored(name=n, shape=(1, 1)) for n in names), **changes)


def test_queries_keys_and_values_are_fused(llama: Llama) -> None:
    weights = llama.weights(Precision.FP32)
    fused, bias = weights["layers.1.qkv"], weights["layers.1.qkv.bias"]
    assert isinstance(fused, PackedWeight) and isinstance(bias, torch.Tensor)
    parts = [f"model.layers.1.self_attn.{part}_proj" for part in "qkv"]
    read = llama.checkpoint.tensor
    assert torch.equal(unpack(fused), torch.cat([read(f"{part}.weight") for part in parts]))
    assert torch.equal(bias, torch.cat([read(f"{part}.bias") for part in parts]))


@pytest.mark.parametrize(
    ("precision", "layers", "vocabulary"),
    [("bf16", "bf16", "bf16"), ("int8", "int8", "int8"), ("int4", "int4", "int8")],
)
def test_the_vocabulary_is_never_int4(
    llama: Llama, precision: str, layers: str, vocabulary: str
) -> None:
    weights = llama.weights(Precision(precision))
    schemes = {n: w.scheme for n, w in weights.items() if isinstance(w, PackedWeight)}
    assert schemes.pop("embedding") == vocabulary
    assert set(schemes.values()) == {layers}


def test_the_shares_of_two_ranks_are_the_whole() -> None:
    """4 query heads and 2 key/value heads of 2 rows each: rank 0 has the first half of every
    part."""
    q, k, v = torch.arange(8.0)[:, None], torch.arange(4.0)[:, None] + 10, torch.ones(4, 1)
    rows = source("q", "k", "v", shard="rows", heads=(4, 2))
    assert take_shard([q, k, v], rows, Shard(0, 2)).flatten().tolist() == [0, 1, 2, 3, 10, 11, 1, 1]
    assert take_shard([q, k, v], rows, Shard(1, 2)).flatten().tolist() == [4, 5, 6, 7, 12, 13, 1, 1]
    o = torch.arange(6.0).reshape(1, 6)
    columns = source("o", shard="columns", heads=(2, 2))
    assert take_shard([o], columns, Shard(1, 2)).tolist() == [[3, 4, 5]]
    norm = source("n", quantize=False)
    assert torch.equal(take_shard([v], norm, Shard(1, 2)), v)


def test_ranks_share_a_head_where_heads_are_few() -> None:
    parts = [torch.zeros(4), torch.arange(4.0), torch.zeros(4)]
    keys = source("q", "k", "v", shard="rows", heads=(4, 2))
    assert [take_shard(parts, keys, Shard(r, 4)).tolist()[1:3] for r in range(4)] == [
        [0, 1],
        [0, 1],
        [2, 3],
        [2, 3],
    ]


def test_heads_are_not_cut() -> None:
    """Of 9 over 3 key heads rank 0 has 3, with their key head."""
    queries = source("model.q_proj.weight", shard="rows", heads=(9, 3))
    shares = [take_shard([torch.zeros(576, 1)], queries, Shard(rank, 2)) for rank in range(2)]
    assert [len(share) for share in shares] == [192, 384]


def test_two_ranks_get_a_file_each(llama: Llama, tmp_path: Path, progress: Progress) -> None:
    convert(llama.checkpoint, llama.spec, llama.target(), 2, tmp_path, progress)
    whole = llama.weights(Precision.FP32)["layers.0.down"]
    halves = [load_weights(tmp_path, rank)["layers.0.down"] for rank in range(2)]
    assert isinstance(whole, PackedWeight)
    unpacked = [unpack(half) for half in halves if isinstance(half, PackedWeight)]
    assert torch.equal(torch.cat(unpacked, dim=1), unpack(whole))


@pytest.mark.parametrize(
    ("names", "tensor", "sentence"),
    [
        (set(), torch.zeros, r"lacks \d+ tensors of a LlamaForCausalLM, such as model\.embed"),
        (
            None,
            lambda *_: torch.zeros(3, 5),
            r"shape \[3, 5\], but the config asks for \[272, 64\]",
        ),
    ],
)
def test_another_models_weights(
    llama: Llama,
    tmp_path: Path,
    progress: Progress,
    names: set[str] | None,
    tensor: Callable[..., torch.Tensor],
    sentence: str,
) -> None:
    names_there = llama.checkpoint.names if names is None else names
    checkpoint: Any = SimpleNamespace(names=names_there, stored=tensor)
    with pytest.raises(ModelError, match=sentence):
        convert(checkpoint, llama.spec, llama.target(), 1, tmp_path, progress)
