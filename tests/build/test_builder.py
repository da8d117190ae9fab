import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from fakes.llama import EOS_ID, Llama, random_llama
from transformers import AutoTokenizer

from nimlite.build.builder import BuildJob, build_engine
from nimlite.build.engine_dir import open_engine
from nimlite.build.selftest import Logits
from nimlite.engine.evaluate import prompt_logits
from nimlite.errors import ArtifactError, BuildError, SelfTestError
from nimlite.kernels.base import KVLayout
from nimlite.kernels.torch_kernels import TorchKernels
from nimlite.layers.decoder import Decoder
from nimlite.layers.linear import Weights
from nimlite.models.spec import ModelSpec
from nimlite.observe.progress import Progress
from nimlite.profiles.manifest import Precision


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


def execute(spec: ModelSpec, weights: Weights) -> Logits:
    layout = KVLayout(1, 16, spec.num_kv_heads, spec.head_dim, torch.float32)
    model = Decoder.load(spec, weights, layout)
    return lambda prompts: (prompt_logits(model, TorchKernels(), prompt) for prompt in prompts)


def execute_wrongly(spec: ModelSpec, weights: Weights) -> Logits:
    """As if a kernel took the wrong row."""

    def logits(prompts: Sequence[Sequence[int]]) -> Iterator[torch.Tensor]:
        return (logits_TV.roll(1, dims=1) for logits_TV in execute(spec, weights)(prompts))

    return logits


def never(spec: ModelSpec, weights: Weights) -> Logits:
    raise AssertionError("nothing was to be built")


def test_an_engine_is_built_once(job: BuildJob, home: Path, progress: Progress) -> None:
    built = build_engine(job, home, progress, execute)
    assert built.path == home and built == open_engine(home)
    config = built.config
    assert (config.key, config.eos_token_ids, config.source) == (
        job.key,
        (EOS_ID,),
        "hf://org/tiny",
    )
    assert config.quality.max_absolute_error < 1e-3 and config.quality.num_tokens > 1000
    assert {"rank0.safetensors", "tokenizer.json", "LICENSE"} < config.files.keys()
    assert AutoTokenizer.from_pretrained(home)("Hi")["input_ids"] == list(b"Hi")
    assert "not the original ones" in (home / "NOTICE.nimlite").read_text()
    assert build_engine(job, home, progress, never) == built
    assert {path.name for path in home.parent.iterdir()} == {"key", "key.lock"}


def test_a_damaged_engine_is_built_again(
    job: BuildJob, home: Path, progress: Progress, caplog: pytest.LogCaptureFixture
) -> None:
    built = build_engine(job, home, progress, execute)
    weights = home / "rank0.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        again = build_engine(job, home, progress, execute)
    assert str(weights) in caplog.text and "built again" in caplog.text
    assert again.config.files == built.config.files == open_engine(home).config.files


def test_another_job_replaces_the_engine(
    llama: Llama, job: BuildJob, home: Path, progress: Progress
) -> None:
    build_engine(job, home, progress, execute)
    other = job_of(llama, Precision.BF16)
    assert build_engine(other, home, progress, execute).config.key == other.key != job.key


def test_a_wrong_engine_is_never_sealed(job: BuildJob, home: Path, progress: Progress) -> None:
    with pytest.raises(SelfTestError, match=r"does not compute this model: logits differ by \d+"):
        build_engine(job, home, progress, execute_wrongly)
    assert [path.name for path in home.parent.iterdir()] == ["key.lock"]


def test_what_is_no_engine_is_left_alone(job: BuildJob, home: Path, progress: Progress) -> None:
    home.mkdir(parents=True)
    (home / "thesis.txt").write_text("years of work")
    with pytest.raises(BuildError, match="holds files that are no engine, and they are left alone"):
        build_engine(job, home, progress, never)
    assert (home / "thesis.txt").exists()


def test_a_directory_that_can_not_be_made(
    job: BuildJob, tmp_path: Path, progress: Progress
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="can't be used"):
        build_engine(job, tmp_path / "file" / "engines" / "key", progress, never)


def test_two_builders_build_once(llama: Llama, home: Path, progress: Progress) -> None:
    builds: list[int] = []

    def counting(spec: ModelSpec, weights: Weights) -> Logits:
        builds.append(1)
        return execute(spec, weights)

    threads = [
        threading.Thread(target=build_engine, args=(job_of(llama), home, progress, counting))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert builds == [1]


KILLED = """
import os, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/build"]
from test_builder import job_of, execute
from fakes.llama import Llama
from nimlite.build.builder import build_engine
from nimlite.build.checkpoint import open_checkpoint
from nimlite.observe.bars import LineProgress
def deadly(spec, weights):
    os.kill(os.getpid(), 9)
llama = Llama(open_checkpoint(Path(sys.argv[2])), Path(sys.argv[3]))
build_engine(job_of(llama), Path(sys.argv[3]), LineProgress(lambda line: None), deadly)
"""


def test_a_killed_build_leaves_nothing_that_is_read(
    llama: Llama, job: BuildJob, home: Path, progress: Progress
) -> None:
    tests = Path(__file__).parents[1]
    checkpoint = llama.directory.parent / "checkpoint"
    for directory in (home, home.with_name("other")):
        command = [sys.executable, "-c", KILLED, str(tests), str(checkpoint), str(directory)]
        assert subprocess.run(command).returncode == -signal.SIGKILL
        assert not directory.exists()
        assert directory.with_name(f"{directory.name}.building").exists()
    assert build_engine(job, home, progress, execute) == open_engine(home)
    assert not list(home.parent.glob("*.building"))
