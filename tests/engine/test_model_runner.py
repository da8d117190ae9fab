"""An engine from its directory, in Python."""

from pathlib import Path

import pytest
from fakes.llama import Llama, random_llama

import nimlite
from nimlite.build.builder import BuildJob, build_engine
from nimlite.errors import ContextLengthError, ModelError
from nimlite.observe.progress import SILENT


def test_an_engine_directory_generates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no compiler: plain torch, at once
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    llama: Llama = random_llama(tmp_path)
    job = BuildJob(
        checkpoint=llama.checkpoint,
        profile=llama.profile(),
        device="cpu",
        model_name="Tiny",
        served_name="tiny",
        source=str(llama.home),
    )
    built = build_engine(job, tmp_path / "engine", SILENT, llama.target())
    runner = nimlite.ModelRunner.from_dir(built.path, num_threads=1)
    first, second = runner.generate(["Once upon", list(b"a time")], max_new_tokens=4)
    assert (len(first.token_ids), second.num_prompt_tokens) == (4, 6)
    expected = int(llama.reference_logits(b"Once upon")[-1].argmax())
    assert first.token_ids[0] == expected
    sampled = {"max_new_tokens": 4, "temperature": 2.0, "top_k": 50, "top_p": 0.95, "seed": 7}
    assert runner.generate(["Once"], **sampled) == runner.generate(["Once"], **sampled)
    with pytest.raises(ContextLengthError, match="This request needs 10001 tokens"):
        runner.generate(["a"], max_new_tokens=10_000)


def test_what_is_no_engine(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not an engine directory"):
        nimlite.ModelRunner.from_dir(tmp_path)
