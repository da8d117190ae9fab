"""Checkpoint tensors taken apart."""

from types import SimpleNamespace
from typing import Any

import torch

from nimlite.build.parts import parts_of, row_order, sources_of
from nimlite.models.registry import read_spec
from nimlite.models.spec import HeadPairs, Stored, WeightSource


def part_rows(source: WeightSource) -> list[list[int]]:
    """Which rows each part is made of."""
    tensors = [torch.arange(s.shape[0])[:, None] for s in source.tensors]
    return [part.flatten().tolist() for part in parts_of(source, tensors)]


def test_a_fused_tensor_comes_apart_by_groups() -> None:
    """Two groups of two query heads, a key and a value head, of one row each."""
    qkv = Stored(name="qkv", shape=(8, 1), groups=2, sizes=(2, 1, 1))
    source = WeightSource(tensors=(qkv,))
    assert part_rows(source) == [[0, 1, 4, 5], [2, 6], [3, 7]]
    order = row_order(source)
    assert order is not None and order.tolist() == [0, 1, 4, 5, 2, 6, 3, 7]
    assert source.shape == (8, 1)


def test_pairs_are_put_half_of_what_turns_apart() -> None:
    parts = [Stored(name=name, shape=(6, 1)) for name in "qkv"]
    pairs = HeadPairs(head_dim=6, rotary_dim=4)
    turned, plain = [0, 2, 1, 3, 4, 5], [0, 1, 2, 3, 4, 5]
    assert part_rows(WeightSource(tensors=tuple(parts), pairs=pairs)) == [turned, turned, plain]


def test_what_becomes_of_values() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    stored = Stored(name="x", shape=(2, 2))

    def made(**changes: Any) -> torch.Tensor:
        return torch.cat(parts_of(WeightSource(tensors=(stored,), **changes), [x]))

    assert torch.equal(made(offset=1.0, scale=2.0), 2 * (x + 1))
    assert torch.equal(made(unit_rows=True), torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
    turned = Stored(name="x", shape=(2, 2), transposed=True)
    assert torch.equal(parts_of(WeightSource(tensors=(turned,)), [x])[0], x.T)
    late = Stored(name="x", shape=(2, 2), skip=1)
    assert torch.equal(parts_of(WeightSource(tensors=(late,)), [x])[0], x[1:])
    assert row_order(WeightSource(tensors=(stored,))) is None


def test_a_checkpoint_without_its_head_has_shorter_names() -> None:
    spec = read_spec(
        {
            "architectures": ["GPT2LMHeadModel"],
            "vocab_size": 9,
            "n_embd": 8,
            "n_layer": 1,
            "n_head": 2,
            "n_positions": 16,
        }
    )
    checkpoint: Any = SimpleNamespace(names={"wte.weight", "transformer.wpe.weight"})
    sources = sources_of(checkpoint, spec)
    assert sources["embedding"].names == ("wte.weight",)
    assert sources["positions"].names == ("transformer.wpe.weight",)
    assert sources["final_norm"].names == ("transformer.ln_f.weight",)
