"""The Python API: an engine directory in, texts out."""

import subprocess
import sys
from pathlib import Path

import pytest
from fakes.llama import Llama

import nimlite
from nimlite.build.builder import BuildJob, build_engine
from nimlite.build.tokenizer_files import byte_tokenizer
from nimlite.engine.cpu import CpuBackend
from nimlite.engine.engine import Engine
from nimlite.engine.request import FinishReason, SamplingParams
from nimlite.errors import ChecksumError, ContextLengthError, ModelError, RequestError
from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.kernels.cpu.library import Library
from nimlite.observe.bars import LineProgress

TEXT = b"We hold these truths to be self-evident, that all men are created equal."


@pytest.fixture
def engine(tiny: Llama, kernels: CpuKernels) -> Engine:
    return tiny.engine(kernels)


def test_generate_takes_texts_and_token_ids(engine: Engine) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)
    text, ids = engine.generate([TEXT.decode(), list(TEXT)], params)
    assert text == ids
    assert text.text == byte_tokenizer().decode(list(text.token_ids))
    assert (text.num_prompt_tokens, text.finish_reason) == (len(TEXT), FinishReason.LENGTH)
    [again] = engine.generate([TEXT.decode()], params)
    assert again.num_cached_tokens == 64
    assert again.token_ids == text.token_ids
    assert engine.generate([]) == []


def test_seeds_that_nobody_gave_differ(engine: Engine) -> None:
    found = engine.generate([TEXT.decode()] * 4, SamplingParams(temperature=2.0, ignore_eos=True))
    assert len({each.token_ids for each in found}) == 4


@pytest.mark.parametrize(
    ("prompt", "error", "sentence"),
    [
        ("", RequestError, "A prompt must have at least one token; this one is empty."),
        ([1, 272], RequestError, "from 1 to 272, but this model's vocabulary has the ids 0 to 271"),
        ([-1, 5], RequestError, "from -1 to 5, but"),
        ([1] * 500, ContextLengthError, "needs 516 tokens"),
    ],
)
def test_a_prompt_that_cannot_run_is_refused_before_any_does(
    engine: Engine, prompt: str | list[int], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        engine.generate(["fine", prompt])
    assert engine.stats.num_steps == 0
    assert not engine.has_work


def test_an_interrupt_leaves_nothing_behind(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Engine.step

    def interrupted(self: Engine) -> list:
        step(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Engine, "step", interrupted)
        engine.generate(["one", "two"])
    assert not engine.has_work
    assert engine.stats.num_free_blocks == engine.stats.num_blocks
    assert len(engine.generate(["three"])) == 1


@pytest.fixture(scope="module")
def built(tiny: Llama, library: Library, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine directory, as `nimlite build` makes it."""
    job = BuildJob(
        checkpoint=tiny.checkpoint,
        profile=tiny.profile(),
        device="cpu",
        model_name="Tiny",
        served_name="tiny",
        source="test",
    )
    target = CpuBackend(profile=tiny.profile(), kernels=CpuKernels(library, num_threads=1))
    home = tmp_path_factory.mktemp("engines") / "tiny"
    return build_engine(job, home, LineProgress(lambda line: None), target).path


@pytest.fixture
def home_cache(cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~/.cache/nimlite`, with the kernels compiled."""
    (tmp_path / "nimlite").mkdir()
    (tmp_path / "nimlite" / "kernels").symlink_to(cache_dir)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_load_from_a_directory(built: Path, home_cache: None, engine: Engine) -> None:
    loaded = nimlite.Engine.load(built, num_threads=1)
    params = nimlite.SamplingParams(temperature=0.0, max_tokens=8)
    assert loaded.generate([TEXT.decode()], params) == engine.generate([TEXT.decode()], params)
    with pytest.raises(ModelError, match=r"is not an engine directory: it has no engine\.json"):
        nimlite.Engine.load(built.parent)


def test_a_damaged_directory_is_not_loaded(built: Path, home_cache: None, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in built.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    with (copy / "rank0.safetensors").open("ab") as file:
        file.write(b"!")
    with pytest.raises(ChecksumError, match=r"rank0\.safetensors is damaged"):
        nimlite.Engine.load(copy)


def test_the_package_alone_is_light() -> None:
    code = "import nimlite, sys; assert 'torch' not in sys.modules; nimlite.Other"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "module 'nimlite' has no attribute 'Other'" in done.stderr
