"""The examples of the documents, run as they stand against the embedded model."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.live_engine import EngineServer
from fakes.live_server import running
from fakes.llama import Llama

from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.kernels.cpu.library import Library

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = [
    pytest.param(source, id=f"{name}-{number}")
    for name in ("api", "speculative-decoding", "structured-output", "tools")
    for number, source in enumerate(
        re.findall(r"```python\n(.*?)```", (DOCS / f"{name}.md").read_text(), re.S)
    )
]


@pytest.fixture(scope="module")
def url(smollm2: Llama, library: Library) -> Iterator[str]:
    engine = smollm2.engine(CpuKernels(library, num_threads=1), max_model_len=1024)
    with running(EngineServer(engine, smollm2.tokenizer_directory)) as server:
        yield server.url


@pytest.mark.parametrize("source", EXAMPLES)
def test_example(source: str, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "http://localhost:8000" in source
    scope: dict[str, Any] = {}
    try:
        exec(source.replace("http://localhost:8000", url), scope)
    finally:
        for client in ("client", "server"):
            if client in scope:
                scope[client].close()
    assert capsys.readouterr().out.strip()
