"""A start timed through the real command, on a tiny model of random weights."""

import json
from pathlib import Path

import pytest

from nimlite.bench.start import measure_starts
from nimlite.errors import BenchmarkError

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "vocab_size": 272,
}
FLAGS = ("--random-weights", "--tags-selector", "precision=fp32,device=cpu")


def test_both_starts_are_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # without a compiler the kernels are plain torch at once
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(CONFIG))
    first, second = measure_starts(str(tmp_path / "model"), FLAGS)
    assert (first.cached, second.cached) == (False, True)
    assert 0 < first.ready_s < first.first_token_s
    assert "  Compare with the reference" in first.phases and first.phases.endswith("ready")
    assert "  Load the weights" in second.phases
    assert "Compare with the reference" not in second.phases
    assert json.loads(second.json_line())["first_token_s"] == second.first_token_s
    assert str(second).startswith(f"everything cached: ready after {second.ready_s:.1f} s, first")


def test_a_cache_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "engines").mkdir()
    with pytest.raises(BenchmarkError, match="is not empty: a start with nothing cached needs it"):
        next(measure_starts("any", cache=tmp_path))
