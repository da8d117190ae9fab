"""A model over several ranks, here threads of one process, gives the logits of one rank."""

from pathlib import Path

import pytest
import torch
from fakes.families import family_model
from fakes.llama import Llama, random_llama
from fakes.thread_ranks import ThreadRanks, on_ranks

from nimlite.build.convert import convert
from nimlite.build.weights_file import load_weights
from nimlite.engine.buffer_sizes import kv_layout
from nimlite.engine.evaluate import prompt_logits
from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.layers.decoder import Decoder
from nimlite.layers.shard import Shard, refusal
from nimlite.observe.progress import SILENT
from nimlite.profiles.manifest import Precision

TEXT = list(b"Fourscore and seven years ago our fathers brought forth")
NINE_HEADS = {
    "hidden_size": 144,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 16,
    "num_hidden_layers": 3,
    "vocab_size": 275,
    "attention_bias": True,
    "mlp_bias": True,
}


def sharded_logits(
    model: Llama, kernels: CpuKernels, directory: Path, tp: int, pp: int, precision: Precision
) -> torch.Tensor:
    target = model.target(precision)
    convert(model.checkpoint, model.spec, target, tp, directory, SILENT, pp=pp)

    def rank(number: int, shard: Shard, ranks: ThreadRanks) -> torch.Tensor:
        layout = kv_layout(model.spec, model.profile(precision), shard)
        decoder = Decoder.load(model.spec, load_weights(directory, number), layout, shard)
        return prompt_logits(decoder, kernels.with_ranks(ranks, 1), TEXT, num_decoded=5)

    return on_ranks(tp, pp, rank)


@pytest.mark.parametrize(("tp", "pp"), [(2, 1), (1, 2), (2, 2), (9, 1)])
def test_nine_heads_over_ranks(tp: int, pp: int, kernels: CpuKernels, tmp_path: Path) -> None:
    model = random_llama(tmp_path, **NINE_HEADS)
    found_TV = sharded_logits(model, kernels, tmp_path, tp, pp, Precision.FP32)
    expected_TV = prompt_logits(model.decoder(), kernels, TEXT, num_decoded=5)
    torch.testing.assert_close(found_TV, expected_TV, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["gpt2", "falcon 7b", "gemma2", "mixtral", "bloom", "qwen2-moe"])
def test_families_over_ranks(name: str, kernels: CpuKernels, tmp_path: Path) -> None:
    model = family_model(name, tmp_path)
    found_TV = sharded_logits(model, kernels, tmp_path, 2, 2, Precision.FP32)
    expected_TV = prompt_logits(model.decoder(), kernels, TEXT, num_decoded=5)
    torch.testing.assert_close(found_TV, expected_TV, atol=1e-4, rtol=0)


@pytest.mark.parametrize("precision", ["bf16", "int8", "int4", "int8_wo", "fp8", "int4_awq"])
def test_precisions_over_ranks(precision: str, kernels: CpuKernels, tmp_path: Path) -> None:
    """It costs no more than on one rank: a row's scale may be of half a row now."""
    model = random_llama(tmp_path)
    found_TV = sharded_logits(model, kernels, tmp_path, 2, 1, Precision(precision))
    alone_TV = prompt_logits(model.decoder(Precision(precision)), kernels, TEXT, num_decoded=5)
    exact_TV = model.reference_logits(TEXT)
    assert (found_TV - exact_TV).norm() < 1.2 * (alone_TV - exact_TV).norm()


@pytest.mark.parametrize(
    ("tp", "pp", "sentence"),
    [
        (1, 5, "pp=5 stages need a layer each, and the model has 4."),
        (5, 1, "tp=5 ranks can't share 9 query heads over 3 key/value heads: take up to 3, or"),
        (99, 1, "tp=99 ranks can't share 9 query heads over 3 key/value heads"),
        (3, 4, None),
        (9, 1, None),
    ],
)
def test_what_can_not_be_split(tp: int, pp: int, sentence: str | None) -> None:
    found = refusal(9, 3, 512, 4, tp=tp, pp=pp)
    assert found is None if sentence is None else found is not None and sentence in found


def test_shares_are_the_whole() -> None:
    for tp, total in ((2, 1536), (3, 1000), (4, 50257)):
        ranges = [Shard(rank, tp).features(total) for rank in range(tp)]
        assert [i for each in ranges for i in each] == list(range(total))
    assert [len(Shard(rank, 2).heads(9, 3)) for rank in range(2)] == [3, 6]
    assert [list(Shard(r, 4).kv_heads(2)) for r in range(4)] == [[0], [0], [1], [1]]
    assert [list(Shard(r, 4).heads(8, 2)) for r in range(4)] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert [len(Shard(stage=s, stages=3).layers(8)) for s in range(3)] == [3, 3, 2]
