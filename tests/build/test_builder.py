import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import tensorrt_rtx
from fakes.candidate import LogitsOnly
from fakes.llama import EOS_ID, Llama, random_llama
from transformers import AutoTokenizer

from nimlite.build.builder import BuildJob, build_engine
from nimlite.build.engine_dir import open_engine
from nimlite.build.random import RandomCheckpoint
from nimlite.build.selftest import Candidate
from nimlite.build.target import BuildTarget
from nimlite.engine.cpu import CpuBackend
from nimlite.errors import ArtifactError, BuildError, ChecksumError, SelfTestError
from nimlite.kernels.torch_kernels import TorchKernels
from nimlite.layers.linear import Weights
from nimlite.models.spec import ModelSpec
from nimlite.observe.progress import Progress
from nimlite.profiles.manifest import Precision
from nimlite.tensorrt import plan_cache
from nimlite.tensorrt.plans import build_plans, wanted_plans
from nimlite.version import ENGINE_FORMAT, __version__


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Llama:
    directory = tmp_path_factory.mktemp("llama")
    llama = random_llama(directory)
    (directory / "checkpoint" / "LICENSE").write_text("Do as you like.")
    return llama


@pytest.fixture
def job(llama: Llama) -> BuildJob:
    return job_of(llama)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "engines" / "tiny" / "key"


def job_of(llama: Llama, precision: Precision = Precision.FP32) -> BuildJob:
    return BuildJob(
        checkpoint=llama.checkpoint,
        profile=llama.profile(precision),
        device="cpu",
        model_name="Tiny",
        served_name="org/tiny",
        source="hf://org/tiny",
    )


Hook = Callable[[Candidate], Candidate]


@dataclass(frozen=True, kw_only=True)
class HookedTarget(CpuBackend):
    """The CPU, with something between it and the self-test."""

    hook: Hook = lambda logits: logits

    def logits(
        self, spec: ModelSpec, weights: Weights, directory: Path, progress: Progress
    ) -> Candidate:
        return self.hook(CpuBackend.logits(self, spec, weights, directory, progress))


def target_of(llama: Llama, hook: Hook = lambda logits: logits) -> BuildTarget:
    return HookedTarget(profile=llama.profile(), kernels=TorchKernels(), hook=hook)


def wrong(logits: Candidate) -> Candidate:
    """As if a kernel took the wrong row."""
    return LogitsOnly(lambda prompts: (t_TV.roll(1, dims=1) for t_TV in logits(prompts)))


def never(logits: Candidate) -> Candidate:
    raise AssertionError("nothing was to be built")


@pytest.fixture
def target(llama: Llama) -> BuildTarget:
    return target_of(llama)


@pytest.fixture
def no_target(llama: Llama) -> BuildTarget:
    return target_of(llama, never)


def test_an_engine_is_built_once(
    job: BuildJob, home: Path, progress: Progress, no_target: BuildTarget, target: BuildTarget
) -> None:
    built = build_engine(job, home, progress, target)
    assert built.path == home and built == open_engine(home)
    config = built.config
    assert (config.key, config.eos_token_ids, config.source) == (
        job.key,
        (EOS_ID,),
        "hf://org/tiny",
    )
    assert config.quality.max_absolute_error < 1e-3 and config.quality.num_tokens > 1000
    assert config.quality.kl_divergence < 1e-6
    assert config.generation.num_tokens == 32 and config.generation.regret < 1e-3
    assert {"tokenizer.json", "LICENSE"} < config.files.keys()
    assert config.weights.keys() == {"rank0.safetensors"}
    assert AutoTokenizer.from_pretrained(home)("Hi")["input_ids"] == list(b"Hi")
    assert "not the original ones" in (home / "NOTICE.nimlite").read_text()
    assert build_engine(job, home, progress, no_target) == built
    assert {path.name for path in home.parent.iterdir()} == {"key", "key.lock"}


def test_a_damaged_engine_is_built_again(
    job: BuildJob,
    home: Path,
    progress: Progress,
    caplog: pytest.LogCaptureFixture,
    target: BuildTarget,
) -> None:
    built = build_engine(job, home, progress, target)
    weights = home / "rank0.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        again = build_engine(job, home, progress, target)
    assert str(weights) in caplog.text and "built again" in caplog.text
    assert again.config.files == built.config.files
    assert again.config.weights == built.config.weights == open_engine(home).config.weights


def test_an_engine_of_an_older_format_is_built_again(
    job: BuildJob,
    home: Path,
    progress: Progress,
    caplog: pytest.LogCaptureFixture,
    target: BuildTarget,
) -> None:
    built = build_engine(job, home, progress, target)
    text = (home / "engine.json").read_text()
    older = text.replace(f'"format": {ENGINE_FORMAT}', f'"format": {ENGINE_FORMAT - 1}')
    assert older != text
    (home / "engine.json").write_text(older)
    with caplog.at_level(logging.WARNING):
        again = build_engine(job, home, progress, target)
    assert again.config.weights == built.config.weights
    assert (
        f"{home} has the engine format {ENGINE_FORMAT - 1}; this nimlite {__version__} reads format"
        f" {ENGINE_FORMAT}. Make it again with `nimlite build`. It is built again." in caplog.text
    )


def test_another_job_replaces_the_engine(
    llama: Llama, job: BuildJob, home: Path, progress: Progress, target: BuildTarget
) -> None:
    build_engine(job, home, progress, target)
    other = job_of(llama, Precision.BF16)
    assert build_engine(other, home, progress, target).config.key == other.key != job.key


@dataclass(frozen=True, kw_only=True)
class PlanningTarget(CpuBackend):
    """The CPU, with plans for a GPU that is not there."""

    def logits(
        self, spec: ModelSpec, weights: Weights, directory: Path, progress: Progress
    ) -> Candidate:
        profile = replace(self.profile, precision=Precision.BF16, max_num_tokens=64)
        wanted = wanted_plans(spec, profile, (8, 9), ("tensorrt_rtx",))
        build_plans(tensorrt_rtx, wanted, spec, directory)
        return CpuBackend.logits(self, spec, weights, directory, progress)


def test_an_engines_plans_are_sealed_and_serve_the_next_build(
    llama: Llama, job: BuildJob, home: Path, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = PlanningTarget(profile=llama.profile(), kernels=TorchKernels())
    built = build_engine(job, home, progress, target)
    plans = {name for name in built.config.files if name.endswith(".plan")}
    assert len(plans) == 3 and "plans.json" in built.config.files
    monkeypatch.setattr(plan_cache, "build_plan", None)
    again = build_engine(replace(job, dense="other"), home, progress, target)
    assert again.config.key != built.config.key and plans < again.config.files.keys()
    (home / next(iter(plans))).write_bytes(b"damaged")
    with pytest.raises(ChecksumError, match=r"\.plan is damaged"):
        open_engine(home)


def test_an_engine_without_plans_keeps_none(
    llama: Llama, job: BuildJob, home: Path, progress: Progress, target: BuildTarget
) -> None:
    planning = PlanningTarget(profile=llama.profile(), kernels=TorchKernels())
    build_engine(replace(job, dense="plans"), home, progress, planning)
    built = build_engine(job, home, progress, target)
    assert not [name for name in built.config.files if "plan" in name]
    assert not list(home.glob("*.plan"))


def test_a_wrong_engine_is_never_sealed(
    llama: Llama, job: BuildJob, home: Path, progress: Progress
) -> None:
    with pytest.raises(SelfTestError, match=r"does not compute this model: logits differ by \d+"):
        build_engine(job, home, progress, target_of(llama, wrong))
    assert [path.name for path in home.parent.iterdir()] == ["key.lock"]


@dataclass(frozen=True)
class Stuck(LogitsOnly):
    """As if no step saw the ones before."""

    def greedy(self, prompt: Sequence[int], num_tokens: int) -> list[int]:
        return [7] * num_tokens


def test_an_engine_that_repeats_itself_is_never_sealed(
    llama: Llama, job: BuildJob, home: Path, progress: Progress
) -> None:
    with pytest.raises(SelfTestError, match="but writes one token over and over token by token"):
        build_engine(job, home, progress, target_of(llama, Stuck))
    assert not home.exists()


def test_what_is_no_engine_is_left_alone(job: BuildJob, home: Path, progress: Progress) -> None:
    home.mkdir(parents=True)
    (home / "thesis.txt").write_text("years of work")
    with pytest.raises(BuildError, match="holds files that are no engine, and they are left alone"):
        build_engine(job, home, progress, no_target)
    assert (home / "thesis.txt").exists()


def test_a_directory_that_can_not_be_made(
    job: BuildJob, tmp_path: Path, progress: Progress
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="can't be used"):
        build_engine(job, tmp_path / "file" / "engines" / "key", progress, no_target)


def test_a_disk_without_room_is_told_before(
    job: BuildJob, home: Path, progress: Progress, no_target: BuildTarget
) -> None:
    huge = RandomCheckpoint({**job.checkpoint.config, "num_hidden_layers": 10**12})
    with pytest.raises(
        ArtifactError, match=r"The engine of Tiny takes [\d,]{10,} MB, and the disk"
    ):
        build_engine(replace(job, checkpoint=huge), home, progress, no_target)
    assert {path.name for path in home.parent.iterdir()} == {"key.lock"}


def test_two_builders_build_once(llama: Llama, home: Path, progress: Progress) -> None:
    builds: list[int] = []

    def counting(logits: Candidate) -> Candidate:
        builds.append(1)
        return logits

    arguments = (job_of(llama), home, progress, target_of(llama, counting))
    threads = [threading.Thread(target=build_engine, args=arguments) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert builds == [1]


def test_a_calibrated_engine_is_built_and_proved(
    llama: Llama, home: Path, progress: Progress
) -> None:
    job = job_of(llama, Precision.INT8_SQ)
    target = llama.target(Precision.INT8_SQ)
    built = build_engine(job, home, progress, target)
    assert built.config.profile.precision is Precision.INT8_SQ
    assert 0 < built.config.quality.relative_error < 0.1
