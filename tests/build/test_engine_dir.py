import dataclasses
import json
from pathlib import Path

import pytest

from nimlite.build.engine_dir import EngineConfig, engine_key, open_engine, seal
from nimlite.build.quality import GenerationReport, QualityReport
from nimlite.errors import ChecksumError, ModelError
from nimlite.models.spec import ModelSpec, RopeSpec
from nimlite.profiles.manifest import Device, Precision, Profile
from nimlite.version import ENGINE_FORMAT

PROFILE = Profile(
    id="test",
    family="tiny",
    device=Device.CPU,
    precision=Precision.INT4,
    kv_precision=Precision.BF16,
    max_model_len=512,
    max_batch_size=8,
    max_num_tokens=256,
    block_size=16,
    tags={"llm_engine": "nimlite"},
)
CONFIG = EngineConfig(
    key=engine_key("digest", PROFILE, "cpu"),
    model_name="Tiny",
    served_name="org/tiny",
    spec=ModelSpec(
        architecture="LlamaForCausalLM",
        num_layers=1,
        hidden_size=32,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        intermediate_size=64,
        vocab_size=100,
        max_positions=512,
        norm_eps=1e-5,
        rope=RopeSpec(theta=5e5, scaling={"rope_type": "linear", "factor": 2.0}),
    ),
    profile=PROFILE,
    eos_token_ids=(2, 7),
    source="hf://org/tiny",
    provenance="by hand",
    checkpoint_digest="digest",
    quality=QualityReport(
        num_tokens=10,
        max_absolute_error=0.5,
        relative_error=0.01,
        argmax_agreement=0.9,
        kl_divergence=0.02,
        perplexity=20.1,
        reference_perplexity=20.0,
    ),
    generation=GenerationReport(num_tokens=32, regret=0.01, longest_run=2),
    built_at="2026-01-01T00:00:00+00:00",
    build_seconds=1.5,
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "rank0.safetensors").write_bytes(bytes(1000))
    (tmp_path / "tokenizer.json").write_text("{}")
    return tmp_path


def test_what_was_sealed_is_opened(home: Path) -> None:
    sealed = seal(home, CONFIG)
    assert sealed.files.keys() == {"tokenizer.json"}
    assert sealed.weights.keys() == {"rank0.safetensors"}
    opened = open_engine(home)
    assert opened.config == sealed and opened.path == home


@pytest.mark.parametrize("name", ["rank0.safetensors", "tokenizer.json"])
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), "instead of"),
        (lambda file: file.write_bytes(b"x" + file.read_bytes()[1:]), r"sha256 .*is"),
        (Path.unlink, "it is missing"),
    ],
    ids=["truncated", "corrupt", "missing"],
)
def test_a_damaged_file_is_named(home: Path, name: str, damage: object, reason: str) -> None:
    seal(home, CONFIG)
    assert callable(damage)
    damage(home / name)
    with pytest.raises(ChecksumError, match=rf"{name} is damaged: .*{reason}.*built again"):
        open_engine(home)
    assert open_engine(home, verify=False).config.key == CONFIG.key


def test_a_truncated_engine_json_is_told(home: Path) -> None:
    seal(home, CONFIG)
    text = (home / "engine.json").read_text()
    for damaged in (text[:100], "", "[]", text.replace('"num_layers"', '"layers"')):
        (home / "engine.json").write_text(damaged)
        with pytest.raises(ChecksumError, match=r"engine\.json is damaged: it can't be read"):
            open_engine(home)


def test_another_format_is_built_again(home: Path) -> None:
    seal(home, CONFIG)
    data = json.loads((home / "engine.json").read_text()) | {"format": ENGINE_FORMAT + 1}
    (home / "engine.json").write_text(json.dumps(data))
    with pytest.raises(ModelError, match=rf"format {ENGINE_FORMAT + 1};.*`nimlite build`"):
        open_engine(home)


def test_no_engine(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(ModelError, match="is not an engine directory: "):
            open_engine(path)


@pytest.mark.parametrize("name", ["__version__", "ENGINE_FORMAT", "torch.__version__"])
def test_another_version_has_another_key(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = engine_key("digest", PROFILE, "cpu", converter="0")
    monkeypatch.setattr(f"nimlite.build.engine_dir.{name}", "99")
    assert engine_key("digest", PROFILE, "cpu", converter="0") != before


def test_everything_that_shapes_an_engine_is_in_its_key() -> None:
    other = dataclasses.replace(PROFILE, precision=Precision.INT8)
    keys = [
        engine_key("digest", PROFILE, "cpu"),
        engine_key("other", PROFILE, "cpu"),
        engine_key("digest", other, "cpu"),
        engine_key("digest", PROFILE, "NVIDIA H200 9.0"),
        engine_key("digest", PROFILE, "cpu", "tensorrt_rtx 1.7"),
    ]
    assert len(set(keys)) == 5 and keys[0] == engine_key("digest", PROFILE, "cpu")
