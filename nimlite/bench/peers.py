"""How the servers under test are started: nimlite itself, and those of its peers that are here."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from nimlite.bench.server import ServerCommand
from nimlite.profiles.manifest import Precision

_CONTEXT = 512
"""Tokens a slot of llama-server holds; it takes memory for all of them at the start."""


def nimlite_command(precision: Precision, model: str) -> ServerCommand:
    """As users start it: nothing is set but the precision and the port."""
    options = ("--host", "127.0.0.1", "--port", "{port}")
    return ServerCommand(
        system="nimlite",
        variant=str(precision),
        arguments=(
            *(sys.executable, "-m", "nimlite", "serve"),
            *("--tags-selector", f"precision={precision}", *options),
        ),
        model=model,
        ready_path="/v1/health/ready",
    )


def peer_commands(
    gguf_files: Sequence[Path], checkpoint: Path, num_threads: int, concurrency: int
) -> list[ServerCommand]:
    """The peers whose executables are on PATH, set up for `concurrency` requests at once.

    `checkpoint`: the model as a Hugging Face directory. `num_threads`: compute threads, where the
    peer does not choose well itself.
    """
    commands = []
    if executable := shutil.which("llama-server"):
        commands += [
            _llama_server(executable, file, num_threads, concurrency) for file in gguf_files
        ]
    if executable := shutil.which("vllm"):
        commands.append(_vllm(executable, checkpoint, concurrency))
    return commands


def missing_peers() -> list[str]:
    """The executables that were looked for in vain."""
    return [name for name in ("llama-server", "vllm") if shutil.which(name) is None]


def _llama_server(executable: str, file: Path, num_threads: int, concurrency: int) -> ServerCommand:
    options = {
        "-m": file,
        "--host": "127.0.0.1",
        "--port": "{port}",
        "--alias": "model",
        "-t": num_threads,
        "-tb": num_threads,
        "-np": concurrency,
        "-c": concurrency * _CONTEXT,
        "-fa": "on",
    }
    return ServerCommand(
        system="llama-server",
        variant=file.stem.rpartition(".")[2] or file.stem,
        arguments=(executable, *(str(part) for option in options.items() for part in option)),
        model="model",
        ready_path="/health",
    )


def _vllm(executable: str, checkpoint: Path, concurrency: int) -> ServerCommand:
    options = {
        "--served-model-name": "model",
        "--host": "127.0.0.1",
        "--port": "{port}",
        "--dtype": "bfloat16",
        "--max-model-len": 4096,
        "--max-num-seqs": concurrency,
    }
    return ServerCommand(
        system="vllm",
        variant="bf16",
        arguments=(
            *(executable, "serve", str(checkpoint)),
            *(str(part) for option in options.items() for part in option),
        ),
        model="model",
        ready_path="/health",
    )
