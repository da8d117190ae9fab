"""Checkpoints for embeddings, built as any other and compared with transformers."""

import json
from pathlib import Path

import openai
import pytest
import torch
from fakes.families import TINY
from fakes.family import TinyModel
from fakes.live_engine import EngineServer
from fakes.live_server import running
from fakes.llama import save_random
from transformers import (
    AutoModel,
    BertConfig,
    MistralConfig,
    MPNetConfig,
    PreTrainedConfig,
    Qwen3Config,
    RobertaConfig,
    XLMRobertaConfig,
)

from nimlite.build.builder import BuildJob, build_engine
from nimlite.build.checkpoint import open_checkpoint
from nimlite.build.engine_dir import EngineDirectory
from nimlite.engine.engine import Engine
from nimlite.errors import ContextLengthError, ModelError, RequestError, SelfTestError
from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.kernels.torch_kernels import TorchKernels
from nimlite.models.embedding import EmbeddingSpec, Pooling
from nimlite.models.registry import read_spec
from nimlite.observe.bars import LineProgress
from nimlite.profiles.generate import generate_manifest
from nimlite.profiles.manifest import Artifact, Device, Precision
from nimlite.profiles.memory import plan_memory
from nimlite.profiles.shape import ModelShape

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


ENCODER = {
    "vocab_size": 272,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
ENCODERS: dict[str, PreTrainedConfig] = {
    "BertModel": BertConfig(**ENCODER, max_position_embeddings=256),
    "RobertaForMaskedLM": RobertaConfig(**ENCODER, max_position_embeddings=258),
    "XLMRobertaModel": XLMRobertaConfig(
        **ENCODER, max_position_embeddings=258, type_vocab_size=1, hidden_act="gelu_new"
    ),
    "MPNetModel": MPNetConfig(**ENCODER, max_position_embeddings=258),
}


def describe(model: TinyModel, pooling: dict[str, object]) -> None:
    """As sentence-transformers does."""
    (model.home / "modules.json").write_text(json.dumps(MODULES))
    (model.home / "1_Pooling").mkdir()
    (model.home / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


def build(model: TinyModel, home: Path, precision: Precision = Precision.FP32) -> EngineDirectory:
    job = BuildJob(
        checkpoint=model.checkpoint,
        profile=model.profile(precision),
        device="cpu",
        model_name="Tiny",
        served_name="tiny",
        source="here",
    )
    return build_engine(job, home, LineProgress(lambda line: None), model.target(precision))


def hidden(model: TinyModel, text: bytes) -> torch.Tensor:
    """transformers' x_TD."""
    with torch.inference_mode():
        return model.model(torch.tensor([list(text)])).last_hidden_state[0]


def check(engine: Engine, model: TinyModel, pooling: Pooling) -> None:
    for text, found_D in zip(TEXTS, engine.embed(TEXTS, pooling), strict=True):
        x_TD = hidden(model, text)
        wanted_D = {Pooling.LAST: x_TD[-1], Pooling.MEAN: x_TD.mean(0), Pooling.CLS: x_TD[0]}
        torch.testing.assert_close(torch.from_numpy(found_D), wanted_D[pooling], atol=1e-4, rtol=0)


@pytest.mark.parametrize("architecture", CASES)
def test_a_decoder_without_its_head(architecture: str, kernels: CpuKernels, tmp_path: Path) -> None:
    model = embedding_model(CASES[architecture], architecture, tmp_path)
    if architecture.startswith("Qwen3"):
        describe(model, LAST)
    built = build(model, tmp_path / "engine")
    assert built.config.embedding == EmbeddingSpec(pooling=Pooling.LAST)
    check(Engine.open(built, kernels=kernels), model, Pooling.LAST)


@pytest.mark.parametrize("architecture", ENCODERS)
def test_an_encoder(architecture: str, kernels: CpuKernels, tmp_path: Path) -> None:
    model = embedding_model(ENCODERS[architecture], architecture, tmp_path)
    built = build(model, tmp_path / "engine")
    assert built.config.embedding == EmbeddingSpec(pooling=Pooling.MEAN)
    assert str(built.config.generation) == "it reads and does not write"
    engine = Engine.open(built, kernels=kernels)
    for pooling in Pooling:
        check(engine, model, pooling)
        check(model.engine(TorchKernels(), max_num_tokens=64), model, pooling)
    assert engine.stats.num_prefix_hits == 0
    with pytest.raises(RequestError, match=f"{architecture} reads whole texts and writes none"):
        engine.generate(TEXTS)


def test_texts_of_an_encoder_wait_for_a_step_that_holds_them(tmp_path: Path) -> None:
    model = embedding_model(ENCODERS["BertModel"], "BertModel", tmp_path)
    engine = model.engine(TorchKernels(), max_num_tokens=32, num_blocks=10_000)
    assert engine.limits.max_tokens == engine.profile.max_model_len == 32
    assert engine.stats.num_blocks == 32 // 16 + 64  # scratch, whatever the profile would pay for
    engine.embed([[5] * 20, [6] * 20, [7] * 12, [8] * 32], Pooling.MEAN)
    assert engine.stats.num_steps == 3
    assert engine.stats.num_free_blocks == engine.stats.num_blocks
    with pytest.raises(ContextLengthError, match="the context of this model holds 32"):
        engine.embed([[5] * 33], Pooling.MEAN)


def test_rounding_may_change_embeddings_by_a_tenth(tmp_path: Path) -> None:
    model = embedding_model(ENCODERS["BertModel"], "BertModel", tmp_path)
    assert build(model, tmp_path / "int8", Precision.INT8).config.quality.relative_error < 0.1
    with pytest.raises(SelfTestError, match=r"to int4 costs too much.*; 10% is allowed"):
        build(model, tmp_path / "int4", Precision.INT4)


def test_an_encoder_over_http(kernels: CpuKernels, tmp_path: Path) -> None:
    model = embedding_model(ENCODERS["BertModel"], "BertModel", tmp_path)
    describe(model, {"pooling_mode_cls_token": True})
    built = build(model, tmp_path / "engine")
    engine = Engine.open(built, kernels=kernels)
    with (
        running(EngineServer(engine, built.path, built.config.embedding)) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        answer = client.embeddings.create(model="tiny", input=[t.decode() for t in TEXTS])
        with pytest.raises(openai.BadRequestError, match="writes no text"):
            client.completions.create(model="tiny", prompt="Hi")
    for text, each in zip(TEXTS, answer.data, strict=True):
        wanted_D = torch.nn.functional.normalize(hidden(model, text)[0], dim=0)
        torch.testing.assert_close(torch.tensor(each.embedding), wanted_D, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position_embedding_type": "relative_key"}, "positions of the type 'relative_key'"),
        ({"is_decoder": True}, "an encoder that is a decoder"),
    ],
)
def test_an_encoder_of_another_kind(changes: dict[str, object], message: str) -> None:
    config = ENCODERS["BertModel"].to_dict() | {"architectures": ["BertModel"]} | changes
    with pytest.raises(ModelError, match=message):
        read_spec(config)


def test_the_memory_of_an_encoder() -> None:
    config = ENCODERS["BertModel"].to_dict() | {"architectures": ["BertModel"]}
    shape = ModelShape.of(read_spec(config))
    profiles = generate_manifest("tiny", shape, Artifact(uri="hf://org/tiny")).profiles
    profile = next(each for each in profiles if each.device is Device.CPU)
    plan = plan_memory(shape, profile, 8 << 30)
    num_tokens = profile.max_num_tokens + profile.max_batch_size * profile.block_size
    element_bytes = 4 if profile.kv_precision is Precision.FP32 else 2
    assert plan.kv_cache == 2 * 64 * num_tokens * element_bytes
