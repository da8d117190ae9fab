"""The engine of a plan, where it is to run."""

import asyncio
import json
from pathlib import Path

import pytest
from fakes.driving import Outcome, request
from fakes.llama_config import CONFIG

from nimlite.build.random import RandomCheckpoint
from nimlite.engine.client import EngineClient
from nimlite.engine.loop import EngineLoop
from nimlite.engine.process import EngineProcess
from nimlite.hosting import host_engine
from nimlite.lookup import find_manifest
from nimlite.observe.bars import LineProgress
from nimlite.probe import probe
from nimlite.server.tokenizer import Tokenizer
from nimlite.settings import read_settings
from nimlite.startup import make_plan
from nimlite.store.cache import Store


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    directory = tmp_path / "tiny-llama"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIG))
    RandomCheckpoint(CONFIG).save_tokenizer(directory)
    return directory


def test_an_engine_is_built_and_answers_alike_in_a_process_and_in_a_thread(
    checkpoint: Path, tmp_path: Path, cache_dir: Path, library: object
) -> None:
    store = Store(tmp_path / "cache", offline=True)
    store.root.mkdir()
    store.kernels.symlink_to(cache_dir)
    lines: list[str] = []
    progress = LineProgress(lines.append)
    given = {"NIM_RANDOM_WEIGHTS": "1", "NIM_TAGS_SELECTOR": "precision=bf16,device=cpu"}
    manifest = find_manifest(str(checkpoint), store, progress)
    machine = probe(checkpoint)

    async def ask(in_process: bool) -> Outcome:
        settings = read_settings(given, {"engine_process": in_process})
        host, facts = host_engine(make_plan(manifest, machine, settings), store, progress)
        assert isinstance(host, EngineProcess if in_process else EngineLoop)
        client = EngineClient(host)
        try:
            assert facts.vocab_size == 272
            assert facts.profile.max_model_len == host.limits.max_model_len == 512
            assert Tokenizer.load(facts.directory).token_bytes[65] == b"A"
            generated = client.generate([request("a", [1, 2, 3], max_tokens=12)])
            return Outcome.of([delta async for deltas in generated for delta in deltas])
        finally:
            client.close()

    apart = asyncio.run(ask(in_process=True))
    assert any(line.startswith("Seal the engine") for line in lines)  # as the child built it
    assert asyncio.run(ask(in_process=False)) == apart
    assert len(apart.token_ids) in range(1, 13)
