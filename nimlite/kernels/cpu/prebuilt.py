"""The C++ kernels for machines without a compiler: built beforehand, once per level of processor.

`build_all` fills a directory, as the container image's build does; `load` takes from it the best
build that this processor can run.
"""

import hashlib
import platform
from dataclasses import dataclass
from pathlib import Path

from nimlite.data_files import data_directory
from nimlite.kernels.cpu.library import (
    Library,
    LibraryUnavailableError,
    build,
    source_digest,
)

DIRECTORY = data_directory("kernels")
"""Where an installation has them, if it has any."""
_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Level:
    """A kind of processor: what the compiler is told of it, and by which flags of /proc/cpuinfo it
    is known."""

    name: str
    architecture: str
    machine: tuple[str, ...]
    needs: frozenset[str]

    def path(self, directory: Path) -> Path:
        """Of this level's build. Another version's sources have another name."""
        digest = hashlib.sha256(repr(self.machine).encode() + source_digest().encode())
        return directory / f"{self.name}-{digest.hexdigest()[:16]}.so"


# x86-64-v3 and -v4 as the psABI defines them; Linux calls LZCNT abm.
_V3 = frozenset(["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"])
_V4 = _V3 | frozenset(["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"])
LEVELS = (
    Level("x86-64-v4-vnni", "x86_64", ("-march=x86-64-v4", "-mavx512vnni"), _V4 | {"avx512_vnni"}),
    Level("x86-64-v4", "x86_64", ("-march=x86-64-v4",), _V4),
    Level("x86-64-v3", "x86_64", ("-march=x86-64-v3",), _V3),
    Level("x86-64", "x86_64", ("-march=x86-64",), frozenset()),
    Level("armv8.2-a", "aarch64", ("-march=armv8.2-a",), frozenset({"atomics", "asimdrdm"})),
    Level("armv8-a", "aarch64", ("-march=armv8-a",), frozenset()),
)
"""The best first."""


def build_all(directory: Path) -> list[Path]:
    """Build every level of this architecture. Raises LibraryUnavailableError without a compiler."""
    directory.mkdir(parents=True, exist_ok=True)
    built = []
    for level in LEVELS:
        if level.architecture == platform.machine():
            build(level.path(directory), level.machine)
            built.append(level.path(directory))
    return built


def load(directory: Path, flags: frozenset[str] | None = None) -> tuple[Library, str]:
    """The best build in `directory` for a processor with these flags (unset: for this one), and the
    name of its level.

    Raises LibraryUnavailableError where there is none.
    """
    if flags is None:
        flags = _cpu_flags()
    for level in LEVELS:
        fits = level.architecture == platform.machine() and level.needs <= flags
        if fits and (path := level.path(directory)).exists():
            return Library(path), level.name
    raise LibraryUnavailableError("no build of the C++ kernels came with nimlite")


def _cpu_flags() -> frozenset[str]:
    """Empty where the system does not say: then only a build for every processor fits."""
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()
