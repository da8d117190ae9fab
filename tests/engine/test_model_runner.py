"""An engine from its directory, in Python."""

import re
from pathlib import Path

import pytest
import torch
from fakes.llama import Llama, random_llama

import nimlite
from nimlite.build.builder import BuildJob, build_engine
from nimlite.errors import ContextLengthError, ModelError, RequestError, SettingError
from nimlite.observe.progress import SILENT


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Llama, Path]:
    monkeypatch.setenv("PATH", str(tmp_path))  # no compiler: plain torch, at once
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    llama = random_llama(tmp_path)
    job = BuildJob(
        checkpoint=llama.checkpoint,
        profile=llama.profile(),
        device="cpu",
        model_name="Tiny",
        served_name="tiny",
        source=str(llama.home),
    )
    return llama, build_engine(job, tmp_path / "engine", SILENT, llama.target()).path


def test_an_engine_directory_generates(engine: tuple[Llama, Path]) -> None:
    llama, directory = engine
    runner = nimlite.ModelRunner.from_dir(directory, num_threads=1)
    first, second = runner.generate(["Once upon", list(b"a time")], max_new_tokens=4)
    assert (len(first.token_ids), second.num_prompt_tokens) == (4, 6)
    expected = int(llama.reference_logits(b"Once upon")[-1].argmax())
    assert first.token_ids[0] == expected
    (alone,) = runner.generate("Once upon", max_new_tokens=4)
    assert alone.token_ids == first.token_ids
    assert runner.generate([]) == []
    sampled = {"max_new_tokens": 4, "temperature": 2.0, "top_k": 50, "top_p": 0.95, "seed": 7}
    assert runner.generate(["Once"], **sampled) == runner.generate(["Once"], **sampled)


def test_what_can_not_be_generated(engine: tuple[Llama, Path]) -> None:
    runner = nimlite.ModelRunner.from_dir(engine[1], num_threads=1)
    with pytest.raises(ContextLengthError, match="This request needs 10001 tokens"):
        runner.generate(["a"], max_new_tokens=10_000)
    for figures, sentence in (
        ({"max_new_tokens": 0}, "max_tokens=0 can't be used. Allowed: at least 1."),
        ({"temperature": -1.0}, "temperature=-1.0 can't be used. Allowed: 0, for the likeliest"),
        ({"temperature": float("nan")}, "temperature=nan can't be used"),
        ({"top_p": 0.0}, "top_p=0.0 can't be used. Allowed: more than 0, and at most 1."),
        ({"top_k": -1}, "top_k=-1 can't be used. Allowed: 0, for no limit, and more."),
    ):
        with pytest.raises(RequestError, match=re.escape(sentence)):
            runner.generate(["a"], **figures)
    for prompt, sentence in (
        ("", "A prompt must have at least one token; this one is empty."),
        (None, "A prompt is a text or a list of token ids; None is neither."),
        (7, "A prompt is a text or a list of token ids; 7 is neither."),
        (["a", "b"], "A prompt is a text or a list of token ids; ['a', 'b'] is neither."),
        ([1, 10**9], "The prompt's token ids go from 1 to 1000000000, but this model's vocabulary"),
    ):
        with pytest.raises(RequestError, match=re.escape(sentence)):
            runner.generate([prompt])


def test_an_engine_of_a_gpu_where_there_is_none(
    engine: tuple[Llama, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = engine[1] / "engine.json"
    file.write_text(file.read_text().replace('"device": "cpu"', '"device": "gpu"'))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingError, match=r"is built for a GPU \(nimlite-fp32-tp1-pp1-gpu\), and"):
        nimlite.ModelRunner.from_dir(engine[1])


def test_what_is_no_engine(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is not an engine directory: it has no engine\.json"):
        nimlite.ModelRunner.from_dir(tmp_path)
    with pytest.raises(ModelError, match="is not an engine directory: there is no such directory"):
        nimlite.ModelRunner.from_dir(tmp_path / "nowhere")
