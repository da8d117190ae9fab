"""Engines of converted checkpoints and of other engines, as the commands ask for them."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from fakes.candidate import LogitsOnly
from fakes.llama import random_llama

from nimlite.build.converted_dir import ConvertedDirectory
from nimlite.build.engine_dir import EngineDirectory
from nimlite.build.selftest import Candidate
from nimlite.engine.backend import Backend
from nimlite.engine.cpu import CpuBackend
from nimlite.errors import ChecksumError, DownloadError, ModelError, SelfTestError, SettingError
from nimlite.lookup import find_manifest
from nimlite.observe.bars import LineProgress
from nimlite.preparation import load_engine, prepare_converted, prepare_engine
from nimlite.probe import probe
from nimlite.profiles.manifest import Precision
from nimlite.settings import read_settings
from nimlite.startup import Plan, first_that_passes, make_plan, prepare_kernels
from nimlite.store.cache import Store


class Commands:
    """`nimlite convert` and `build`, but for the process."""

    def __init__(self, root: Path) -> None:
        self.lines: list[str] = []
        self.progress = LineProgress(self.lines.append)
        self.store = Store(root / "cache", offline=True)

    def plan(self, model: Path, **flags: str) -> Plan:
        settings = read_settings({"NIM_CACHE_PATH": str(self.store.root)}, flags)
        return make_plan(
            find_manifest(str(model), self.store, self.progress), probe(self.store.root), settings
        )

    def backend(self, plan: Plan) -> Backend:
        return prepare_kernels(plan, self.store, self.progress)

    def convert(self, model: Path, home: Path, **flags: str) -> ConvertedDirectory:
        plan = self.plan(model, **flags)
        return prepare_converted(plan, self.store, self.progress, home)

    def build(
        self, model: Path, home: Path | None = None, source: str | None = None, **flags: str
    ) -> EngineDirectory:
        plan = self.plan(model, **flags)
        backend = self.backend(plan)
        return prepare_engine(plan, self.store, backend, self.progress, home, source=source)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    # Without a compiler the kernels are plain torch at once, instead of C++ after half a minute.
    monkeypatch.setenv("PATH", str(tmp_path))
    return Commands(tmp_path)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return random_llama(tmp_path / "tiny").home


def test_a_converted_checkpoint_is_a_model_and_built_without_converting(
    commands: Commands, model: Path, tmp_path: Path
) -> None:
    made = commands.convert(model, tmp_path / "converted", precision="int8", max_batch_size="4")
    commands.lines.clear()
    built = commands.build(made.path)
    assert built.path.is_relative_to(commands.store.root / "engines")
    mine = commands.build(made.path, tmp_path / "engine", max_batch_size="2")
    assert mine.config.profile.max_batch_size == 2
    assert mine.config.weights == built.config.weights == made.config.weights
    assert not [line for line in commands.lines if line.startswith("Convert")]
    shutil.rmtree(model)  # what is built already needs no source
    assert commands.build(made.path).config == built.config
    assert commands.build(made.path, tmp_path / "engine").path == mine.path


def test_an_engine_is_built_from_an_engine_and_proved_again(
    commands: Commands, model: Path, tmp_path: Path
) -> None:
    first = commands.build(model, tmp_path / "first", precision="bf16")
    commands.lines.clear()
    second = commands.build(first.path, tmp_path / "second", kv_precision="fp32")
    assert second.path == tmp_path / "second"
    assert second.config.weights == first.config.weights
    assert second.config.key != first.config.key
    assert str(second.config.profile.kv_precision) == "fp32"
    assert any(line.startswith("Compare with the reference") for line in commands.lines)
    limited = commands.build(first.path, first.path, max_batch_size="3")
    assert (limited.path, limited.config.profile.max_batch_size) == (first.path, 3)
    with pytest.raises(SettingError, match=r"=fp32 is not what .*first was proved with, bf16: `ni"):
        commands.build(first.path, kv_precision="fp32")


def test_what_an_engine_is_proved_against(commands: Commands, model: Path, tmp_path: Path) -> None:
    made = commands.convert(model, tmp_path / "converted", precision="bf16")
    moved = model.rename(tmp_path / "moved")
    out = tmp_path / "engine"
    with pytest.raises(DownloadError) as missing:
        commands.build(made.path, out)
    assert f"There is no file or directory {model}" in str(missing.value)
    assert "converted was made of it, and an engine is proved against it" in str(missing.value)
    assert "give it by --source." in str(missing.value)
    other = random_llama(tmp_path / "other", seed=1).home
    with pytest.raises(ModelError, match=r"was not made of this checkpoint .*digests differ"):
        commands.build(made.path, out, str(other))
    with pytest.raises(DownloadError, match="There is no file or directory nowhere: check"):
        commands.build(made.path, out, "nowhere")
    assert commands.build(made.path, out, str(moved)).path == out
    with pytest.raises(SettingError, match="--source=x is for a MODEL that is a converted checkpo"):
        commands.build(moved, out, "x")


def test_random_weights_are_proved_against_random_weights(
    commands: Commands, model: Path, tmp_path: Path
) -> None:
    made = commands.convert(model, tmp_path / "converted", precision="bf16", random_weights="1")
    built = commands.build(made.path, tmp_path / "engine")
    assert built.config.provenance.startswith("Random weights of a Llama")


def test_what_is_converted_is_not_converted_again(
    commands: Commands, model: Path, tmp_path: Path
) -> None:
    made = commands.convert(model, tmp_path / "converted", precision="bf16")
    with pytest.raises(SettingError, match="converted is converted already: `nimlite build` ma"):
        commands.convert(made.path, tmp_path / "again")
    with pytest.raises(SettingError, match=r"precision=fp8 is not what .* holds: its weights a"):
        commands.build(made.path, precision="fp8")
    text = tmp_path / "none.txt"
    with pytest.raises(SettingError, match=r"--calibration=.*none.txt can't be read: No such file"):
        commands.build(model, precision="int8_sq", calibration=str(text))


def test_a_users_own_engine_in_the_cache_keeps_its_weights(
    commands: Commands, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing to build it again from."""
    built = commands.build(model, commands.store.root / "mine", precision="bf16")
    plan = commands.plan(built.path)
    backend = commands.backend(plan)

    def damaged(*_: object, **__: object) -> None:
        raise ChecksumError("weights are damaged")

    monkeypatch.setattr(type(backend), "open", damaged)
    with pytest.raises(ChecksumError, match="weights are damaged"):
        load_engine(plan, built, backend, commands.progress)
    assert (built.path / "rank0.safetensors").exists()


def test_the_next_precision_is_built_and_the_failure_remembered(
    commands: Commands,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As if a kernel of the best precision were wrong."""
    right, built = CpuBackend.logits, list[Precision]()

    def logits(self: CpuBackend, *arguments: Any) -> Candidate:
        engine, precision = right(self, *arguments), self.profile.precision
        built.append(precision)
        if precision is not built[0]:
            return engine
        return LogitsOnly(lambda prompts: (t_TV.roll(1, dims=1) for t_TV in engine(prompts)))

    monkeypatch.setattr(CpuBackend, "logits", logits)

    def start() -> tuple[Plan, EngineDirectory]:
        return first_that_passes(
            commands.plan(model),
            lambda plan: prepare_engine(
                plan, commands.store, commands.backend(plan), commands.progress
            ),
        )

    plan, engine = start()
    failed, passed = built
    assert engine.config.profile.precision is passed is not failed
    assert f"The engine ({failed}) does not compute this model" in caplog.text
    assert f"-{passed}-tp1-pp1-cpu is tried instead." in caplog.text
    assert plan.selection.chosen.reason.startswith(f"The self-test of nimlite-{failed}-tp1-pp1-cpu")
    caplog.clear()
    assert start()[1].config == engine.config
    assert built == [failed, passed]  # nothing was built again
    (file,) = (commands.store.root / "failures").iterdir()
    assert f"That was at an earlier start; to try again, remove {file}." in caplog.text
    with pytest.raises(SelfTestError, match="does not compute this model"):
        commands.build(model, model.parent / "out", precision=str(failed))  # asked for: tried again
    assert built == [failed, passed, failed]
