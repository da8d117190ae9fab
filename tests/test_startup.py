"""The way from a name to an engine, on a tiny checkpoint with random weights."""

import json
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import tensorrt_rtx
from fakes.llama_config import CONFIG
from fakes.nobody import nobody
from safetensors.torch import save_file

from nimlite.build.engine_dir import EngineDirectory
from nimlite.build.random import RandomCheckpoint
from nimlite.engine.cpu import CpuBackend
from nimlite.engine.engine import Engine
from nimlite.errors import ChecksumError, ModelError, SettingError
from nimlite.lookup import find_manifest
from nimlite.observe.bars import LineProgress
from nimlite.observe.progress import Progress
from nimlite.preparation import load_engine, prepare_engine
from nimlite.probe import Machine, probe
from nimlite.settings import read_settings
from nimlite.startup import (
    Plan,
    foreseen_dense_layers,
    limit_openmp,
    make_plan,
    prepare_kernels,
)
from nimlite.store.cache import Store
from nimlite.store.inventory import Kind, entries


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def progress(lines: list[str]) -> LineProgress:
    return LineProgress(lines.append)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    # Without a compiler the kernels are plain torch at once, instead of C++ after half a minute.
    monkeypatch.setenv("PATH", str(tmp_path))
    return Store(tmp_path / "cache", offline=True)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    directory = tmp_path / "tiny-llama"
    directory.mkdir()
    weights = RandomCheckpoint(CONFIG)
    (directory / "config.json").write_text(json.dumps(CONFIG))
    tensors = {name: weights.tensor(name) for name in weights.names}
    save_file(tensors, directory / "model.safetensors")
    weights.save_tokenizer(directory)
    return directory


def plan_for(model: Path, store: Store, progress: LineProgress, **environ: str) -> Plan:
    settings = read_settings({"NIM_TAGS_SELECTOR": "precision=bf16", **environ})
    return make_plan(find_manifest(str(model), store, progress), probe(model), settings)


def test_the_default_and_a_family_by_name(store: Store, progress: LineProgress) -> None:
    default = find_manifest(None, store, progress)
    assert default.served_name == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert find_manifest("smollm2-135m", store, progress) == default


def test_an_unknown_name_gets_the_nearest_family(store: Store, progress: LineProgress) -> None:
    with pytest.raises(SettingError) as raised:
        find_manifest("smollm-135m", store, progress)
    assert "neither a path that exists nor a family" in str(raised.value)
    assert "Did you mean smollm2-135m? From the Hugging Face Hub: hf://org/name." in str(
        raised.value
    )


def test_a_directory_that_is_no_model(store: Store, progress: LineProgress, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json"):
        find_manifest(str(tmp_path), store, progress)


def test_names_and_threads(store: Store, progress: LineProgress, checkpoint: Path) -> None:
    plan = plan_for(checkpoint, store, progress)
    assert plan.served_names == ("tiny-llama",)
    assert plan.num_threads == max(1, plan.machine.cpu.usable_cores - 1)
    named = plan_for(checkpoint, store, progress, NIM_SERVED_MODEL_NAME="a,b", NIM_NUM_THREADS="3")
    assert (named.served_names, named.num_threads) == (("a", "b"), 3)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "int4"])
def test_a_directory_is_built_once_and_served(
    store: Store, progress: LineProgress, lines: list[str], checkpoint: Path, precision: str
) -> None:
    tags = {"NIM_TAGS_SELECTOR": f"precision={precision}"}
    plan = plan_for(checkpoint, store, progress, NIM_MAX_MODEL_LEN="128", **tags)
    kernels = prepare_kernels(plan, store, progress)
    built = prepare_engine(plan, store, kernels, progress)
    assert built.path.is_relative_to(store.root / "engines" / "tiny-llama")
    assert built.config.profile == plan.selection.chosen.profile
    lines.clear()
    assert prepare_engine(plan, store, kernels, progress).config == built.config
    assert lines == []
    engine = load_engine(plan, built, kernels, progress)
    assert engine.profile.max_model_len == 128


def test_a_cache_that_can_only_be_read_serves(
    store: Store, progress: LineProgress, lines: list[str], checkpoint: Path
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = shutil.copytree(checkpoint, folder / "model")
        (model / "model.safetensors").chmod(0o644)
        readable = Store(folder / "cache", offline=True)
        plan = plan_for(model, readable, progress)
        kernels = prepare_kernels(plan, readable, progress)
        built = prepare_engine(plan, readable, kernels, progress)
        folders = (folder, *(path for path in folder.rglob("*") if path.is_dir()))
        for each in folders:
            each.chmod(0o555)
        lines.clear()
        with nobody():
            again = prepare_engine(plan, readable, kernels, progress)
            assert lines == []
            engine = load_engine(plan, again, kernels, progress)
        for each in folders:
            each.chmod(0o755)
    assert (again.config, engine.spec) == (built.config, built.config.spec)


def test_an_engine_in_use_outlives_the_budget(
    store: Store, progress: LineProgress, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plan_for(checkpoint, store, progress, NIM_CACHE_MAX_BYTES="1 kB")
    kernels = prepare_kernels(plan, store, progress)
    built = prepare_engine(plan, store, kernels, progress)
    (entry,) = [e for e in entries(store.root) if e.kind is Kind.ENGINE]
    assert (entry.path, entry.in_use) == (built.path, True)
    assert "more than the 1,000 that it may" in caplog.text


def test_a_damaged_engine_is_named_and_built_again(
    store: Store,
    progress: LineProgress,
    lines: list[str],
    checkpoint: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plan = plan_for(checkpoint, store, progress)
    kernels = prepare_kernels(plan, store, progress)
    weights = prepare_engine(plan, store, kernels, progress).path / "rank0.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    lines.clear()
    prepare_engine(plan, store, kernels, progress)
    assert weights.read_bytes() == content
    assert any(line.startswith("Convert the weights") for line in lines)
    assert f"{weights} is damaged" in caplog.text


@dataclass(frozen=True, kw_only=True)
class StreamingBackend(CpuBackend):
    """Checks weights as it reads them, as a GPU's does."""

    def open(self, directory: EngineDirectory, progress: Progress, **options: Any) -> Engine:
        directory.weights_on(self.device)
        return CpuBackend.open(self, directory, progress, **options)


def test_on_the_cpu_torch_runs_the_dense_layers(
    store: Store, progress: LineProgress, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plan_for(checkpoint, store, progress, NIM_BACKEND="tensorrt")
    with pytest.raises(SettingError) as refusal:
        prepare_kernels(plan, store, progress)
    assert str(refusal.value) == (
        "NIM_BACKEND=tensorrt needs an NVIDIA GPU, and the chosen profile runs on the CPU: take"
        " auto, which uses TensorRT only where it runs, or torch."
    )
    prepare_kernels(plan_for(checkpoint, store, progress, NIM_BACKEND="auto"), store, progress)
    assert "torch runs the dense layers: TensorRT needs an NVIDIA GPU." in caplog.text


@pytest.mark.parametrize(
    ("machine", "backend", "foreseen"),
    [
        ("l40s", None, "torch"),
        ("l40s", "torch", "torch"),
        ("l40s", "auto", "tensorrt_rtx {}, where its plans agree with torch; else torch"),
        ("l40s", "tensorrt", "tensorrt_rtx {}, where its plans agree with torch; else refused"),
        ("h200", "auto", "torch: {}"),
        ("h200", "tensorrt", "refused: {}"),
        ("cpu", "auto", "torch: TensorRT needs an NVIDIA GPU"),
    ],
)
def test_what_computes_the_dense_layers_is_foreseen(
    machine: str,
    backend: str | None,
    foreseen: str,
    store: Store,
    progress: LineProgress,
    checkpoint: Path,
) -> None:
    settings = read_settings({"NIM_BACKEND": backend} if backend else {})
    seen = probe(checkpoint) if machine == "cpu" else Machine.load(Path(machine))
    plan = make_plan(find_manifest(str(checkpoint), store, progress), seen, settings)
    version = tensorrt_rtx.__version__
    if machine == "h200":
        version = (
            f"tensorrt is not installed; tensorrt_rtx {version} does not run on compute capability"
            " 9.0, only on 7.5, 8.0, 8.6, 8.9, 12.0, 12.1"
        )
    assert foreseen_dense_layers(plan) == foreseen.format(version)


def test_the_plans_of_an_engine_are_foreseen(
    store: Store, progress: LineProgress, checkpoint: Path
) -> None:
    (checkpoint / "plans.json").write_text("{}")
    manifest = find_manifest(str(checkpoint), store, progress)
    plan = make_plan(manifest, Machine.load(Path("l40s")), read_settings({}))
    assert foreseen_dense_layers(plan).startswith("tensorrt_rtx")


def test_weights_that_prove_damaged_as_they_are_read_are_built_again(
    store: Store,
    progress: LineProgress,
    checkpoint: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plan = plan_for(checkpoint, store, progress, NIM_CACHE_PATH=str(store.root))
    cpu = prepare_kernels(plan, store, progress)
    assert isinstance(cpu, CpuBackend)
    backend = StreamingBackend(profile=cpu.profile, kernels=cpu.kernels)
    for home in (None, tmp_path / "mine"):
        built = prepare_engine(plan, store, backend, progress, home=home)
        weights = built.path / "rank0.safetensors"
        content = weights.read_bytes()
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        if home is None:
            assert load_engine(plan, built, backend, progress).spec == built.config.spec
            assert weights.read_bytes() == content
            assert f"{weights} is damaged: the sha256 of block 0 is" in caplog.text
        else:
            with pytest.raises(ChecksumError, match=r"rank0\.safetensors is damaged"):
                load_engine(plan, built, backend, progress)


def test_an_engine_directory_is_a_model(
    store: Store, progress: LineProgress, checkpoint: Path, tmp_path: Path
) -> None:
    home = tmp_path / "engine"
    plan = plan_for(checkpoint, store, progress)
    kernels = prepare_kernels(plan, store, progress)
    built = prepare_engine(plan, store, kernels, progress, home=home)
    again = plan_for(home, store, progress)
    assert again.selection.chosen.profile == built.config.profile
    assert again.served_names == ("tiny-llama",)
    assert prepare_engine(again, store, kernels, progress).path == home


def test_an_engine_directory_keeps_the_limits_that_it_was_built_with(
    store: Store, progress: LineProgress, checkpoint: Path, tmp_path: Path
) -> None:
    home = tmp_path / "engine"
    for limits in ({"NIM_MAX_BATCH_SIZE": "2", "NIM_MAX_MODEL_LEN": "128"}, {}):
        plan = plan_for(checkpoint, store, progress, **limits)
        kernels = prepare_kernels(plan, store, progress)
        built = prepare_engine(plan, store, kernels, progress, home=home)
        serving = plan_for(home, store, progress).selection.chosen.serving
        assert serving == replace(plan.selection.chosen.serving, id=built.config.profile.id)


def test_openmp_is_limited_unless_the_user_did() -> None:
    environ = {"OMP_WAIT_POLICY": "ACTIVE"}
    limit_openmp(environ, 3)
    assert environ == {"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "ACTIVE"}
