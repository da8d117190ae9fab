"""Rates that were measured here once, kept in the cache, and put beside the data sheets'."""

import json
import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from nimlite.probe.child import ask_child, script
from nimlite.probe.machine import Gpu, Machine

_TIMEOUT_S = 120.0
_FILE = "measured.json"
_BLOCK = 8 << 20
_BLOCKS = 32
_DISK_SECONDS = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Of one GPU."""

    memory_bandwidth: float
    flops: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All that was measured; what could not be is missing."""

    gpus: Mapping[str, Rates] = field(default_factory=dict)
    """By UUID, without its prefix."""
    memory_bandwidth: float | None = None
    disk_read_bandwidth: float | None = None
    disk_write_bandwidth: float | None = None

    def apply(self, machine: Machine) -> Machine:
        """The machine with these rates in its `measured_…` fields."""
        return replace(
            machine,
            gpus=tuple(self._apply_to_gpu(gpu) for gpu in machine.gpus),
            memory=replace(machine.memory, measured_bandwidth=self.memory_bandwidth),
            disk=replace(
                machine.disk,
                read_bandwidth=self.disk_read_bandwidth,
                write_bandwidth=self.disk_write_bandwidth,
            ),
        )

    def _apply_to_gpu(self, gpu: Gpu) -> Gpu:
        rates = self.gpus.get(gpu.uuid.removeprefix("GPU-").removeprefix("MIG-"))
        if rates is None:
            return gpu
        return replace(gpu, measured_bandwidth=rates.memory_bandwidth, measured_flops=rates.flops)


_ADAPTER = TypeAdapter(Measured)


def load_measured(cache: Path) -> Measured:
    """What an earlier run kept in the cache; nothing where there is none that can be read."""
    try:
        return _ADAPTER.validate_json((cache / _FILE).read_bytes())
    except (OSError, ValidationError):
        return Measured()


def measure_machine(cache: Path) -> tuple[Measured, str | None]:
    """(the rates of this machine, what went wrong); kept in the cache where it can be written.

    Takes a few seconds a GPU. Never raises: a crash or a hang of CUDA costs its rates alone.
    """
    answer, problem = ask_child(script("measure.py"), "The measurement", _TIMEOUT_S)
    read, write = measure_disk(cache)
    measured = _ADAPTER.validate_python(
        {**answer, "disk_read_bandwidth": read, "disk_write_bandwidth": write}
    )
    with suppress(OSError):
        partial = cache / f"{_FILE}.{os.getpid()}"
        partial.write_text(json.dumps(asdict(measured), indent=2))
        partial.replace(cache / _FILE)
    return measured, problem


def measure_disk(directory: Path) -> tuple[float | None, float | None]:
    """(bytes/s read, bytes/s written) of a 256 MiB file; None where it can't be written.

    Ends after some 3 seconds each way, however slow the disk is.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as file:
            return _time_file(file.fileno())
    except OSError:
        return None, None


def _time_file(descriptor: int) -> tuple[float, float]:
    block = os.urandom(_BLOCK)
    started = time.perf_counter()
    written = 0
    while written < _BLOCKS and time.perf_counter() - started < _DISK_SECONDS:
        os.pwrite(descriptor, block, written * _BLOCK)
        os.fsync(descriptor)
        written += 1
    wrote = time.perf_counter() - started
    if hasattr(os, "posix_fadvise"):  # else the page cache answers
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    started = time.perf_counter()
    read = 0
    while read < written and time.perf_counter() - started < _DISK_SECONDS:
        os.pread(descriptor, _BLOCK, read * _BLOCK)
        read += 1
    took = time.perf_counter() - started
    return read * _BLOCK / took, written * _BLOCK / wrote
