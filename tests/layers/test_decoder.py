"""Every shape that the Llama family comes in, against transformers."""

import dataclasses
from pathlib import Path

import pytest
import torch
from fakes.llama import Llama, random_llama

from nimlite.engine.evaluate import prompt_logits
from nimlite.kernels.base import Batch
from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.kernels.torch_kernels import TorchKernels

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
SHAPES = {
    "grouped queries": {},
    "one key head": {"num_key_value_heads": 1},
    "a key head each": {"num_key_value_heads": 4},
    "nine heads of 64 over three": {
        "hidden_size": 576,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
    },
    "heads of 48": {"head_dim": 48},
    "heads of 256": {"head_dim": 256, "num_attention_heads": 2, "num_key_value_heads": 1},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "a head of its own": {"tie_word_embeddings": False},
    "odd sizes": {"hidden_size": 72, "head_dim": 16, "intermediate_size": 101, "vocab_size": 299},
    "gelu": {"hidden_act": "gelu"},
    "gelu by tanh": {"hidden_act": "gelu_pytorch_tanh"},
    "positions of llama3": {"rope_parameters": LLAMA3},
    "positions stretched": {
        "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500_000.0}
    },
}


@pytest.mark.parametrize("num_tokens", [1, 200])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_logits_equal_transformers(
    shape: dict[str, object], num_tokens: int, kernels: CpuKernels, tmp_path: Path
) -> None:
    model = random_llama(tmp_path, **shape)
    token_ids = torch.randint(256, (num_tokens,), generator=torch.Generator().manual_seed(1))
    expected_TV = model.reference_logits(token_ids.tolist())
    assert expected_TV.std() > 1  # it says something
    for each in (kernels, TorchKernels()):
        found_TV = prompt_logits(model.decoder(), each, token_ids.tolist())
        torch.testing.assert_close(found_TV, expected_TV, atol=1e-4, rtol=0)


def test_a_chunk_without_wanted_rows_writes_the_same_keys_and_values(tiny: Llama) -> None:
    model, kernels = tiny.decoder(), TorchKernels()
    layout = dataclasses.replace(model.layout, num_blocks=20)
    tokens_T = torch.arange(20, dtype=torch.int32)

    def pool(rows: list[int]) -> torch.Tensor:
        kv = kernels.allocate_kv(model.spec.num_layers, layout)
        batch = Batch(
            token_ids_T=tokens_T,
            positions_T=tokens_T,
            slots_T=tokens_T,
            query_starts_S1=torch.tensor([0, 20], dtype=torch.int32),
            context_lens_S=torch.tensor([20], dtype=torch.int32),
            block_tables_SB=torch.arange(20, dtype=torch.int32)[None],
            logit_rows_R=torch.tensor(rows, dtype=torch.int32),
        )
        assert model(batch, kv, kernels).shape == (len(rows), model.spec.vocab_size)
        return kv

    assert torch.equal(pool([]), pool([19]))
