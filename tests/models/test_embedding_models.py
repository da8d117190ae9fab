"""Checkpoints for embeddings, built as any other and compared with transformers."""

import json
from pathlib import Path

import pytest
import torch
from fakes.family import TinyModel
from fakes.llama import save_random
from transformers import AutoModel, MistralConfig, PreTrainedConfig, Qwen3Config

from nimlite.build.builder import BuildJob, build_engine
from nimlite.build.checkpoint import open_checkpoint
from nimlite.engine.engine import Engine
from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.models.embedding import EmbeddingSpec, Pooling
from nimlite.observe.bars import LineProgress

TINY = {
    "vocab_size": 272,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "eos_token_id": 256,
    "pad_token_id": None,
}
TEXTS = [b"Fourscore and seven years ago our fathers brought forth", b"on this continent"]
LAST = {"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}
MODULES = [
    {"path": path, "type": f"sentence_transformers.models.{path[2:] or 'Transformer'}"}
    for path in ("", "1_Pooling", "2_Normalize")
]
CASES: dict[str, PreTrainedConfig] = {
    "MistralModel": MistralConfig(**TINY, sliding_window=None),
    "Qwen3ForCausalLM": Qwen3Config(**TINY, head_dim=32, tie_word_embeddings=True),
}


def embedding_model(config: PreTrainedConfig, architecture: str, directory: Path) -> TinyModel:
    """Saved by its base class, as sentence-transformers does."""
    torch.manual_seed(0)
    model = AutoModel.from_config(config).float().eval()
    home = save_random(model, directory)
    written = json.loads((home / "config.json").read_text()) | {"architectures": [architecture]}
    (home / "config.json").write_text(json.dumps(written))
    return TinyModel(open_checkpoint(home), directory / "weights", model)


@pytest.mark.parametrize("architecture", CASES)
def test_a_decoder_without_its_head(architecture: str, kernels: CpuKernels, tmp_path: Path) -> None:
    model = embedding_model(CASES[architecture], architecture, tmp_path)
    if architecture.startswith("Qwen3"):
        (model.home / "modules.json").write_text(json.dumps(MODULES))
        (model.home / "1_Pooling").mkdir()
        (model.home / "1_Pooling" / "config.json").write_text(json.dumps(LAST))
    job = BuildJob(
        checkpoint=model.checkpoint,
        profile=model.profile(),
        device="cpu",
        model_name="Tiny",
        served_name="tiny",
        source="here",
    )
    built = build_engine(job, tmp_path / "engine", LineProgress(lambda line: None), model.target())
    assert built.config.embedding == EmbeddingSpec(pooling=Pooling.LAST)
    found = Engine.open(built, kernels=kernels).embed(TEXTS, Pooling.LAST)
    for text, found_D in zip(TEXTS, found, strict=True):
        with torch.inference_mode():
            wanted_TD = model.model(torch.tensor([list(text)])).last_hidden_state[0]
        torch.testing.assert_close(torch.from_numpy(found_D), wanted_TD[-1], atol=1e-4, rtol=0)
