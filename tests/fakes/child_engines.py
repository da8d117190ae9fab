"""Recipes for a process with an engine in it: functions that it can import."""

import logging
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

from fakes.paced_engine import PacedEngine

from nimlite.engine.request import Delta
from nimlite.engine.wire import Prepared
from nimlite.errors import ModelError
from nimlite.observe.progress import Progress


def tiny(checkpoint: Path, kernels: Path, limits: dict[str, int], progress: Progress) -> Prepared:
    """The engine of a Llama with its files in `checkpoint`; `limits` as for `Llama.engine`."""
    from fakes.llama import Llama

    from nimlite.build.checkpoint import open_checkpoint
    from nimlite.kernels.cpu.cpu_kernels import CpuKernels
    from nimlite.kernels.cpu.library import load

    with progress.task("Load the weights", 8, "layers") as task, TemporaryDirectory() as directory:
        llama = Llama(open_checkpoint(checkpoint), Path(directory))
        engine = llama.engine(CpuKernels(load(kernels), num_threads=1), **limits)
        task.advance(8)
    return Prepared(engine, {"vocab_size": llama.spec.vocab_size})


def talkative(progress: Progress) -> Prepared:
    with progress.task("Wind up", 4, "turns") as task:
        task.advance(3)
        logging.getLogger("fakes").warning("it %s", "ticks", extra={"request_id": "r1"})
        task.advance(1)
    return Prepared(PacedEngine(0.0), {"colour": "red"})


def refused(progress: Progress) -> Prepared:
    with progress.task("Read the model", None, ""):
        raise ModelError("config.json names no architecture.")


def broken(progress: Progress) -> Prepared:
    raise ZeroDivisionError("no layers")


def ends(progress: Progress) -> Prepared:
    raise SystemExit(7)


def hangs(progress: Progress) -> Prepared:
    with progress.task("Wait for ever", None, ""):
        threading.Event().wait()
    raise AssertionError


class _Failing(PacedEngine):
    def step(self) -> list[Delta]:
        raise RuntimeError("no such kernel")


def failing(progress: Progress) -> Prepared:
    """Made, but not able to take a step."""
    return Prepared(_Failing(0.0))
