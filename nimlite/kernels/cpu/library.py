"""Builds the C++ kernels for this very processor at the first use, and keeps them in a cache."""

import ctypes
import hashlib
import os
import subprocess
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

from nimlite.kernels.cpu.op import Op, RunCounts
from nimlite.store.lock import file_lock

SOURCE_DIR = Path(__file__).parent
COMPILER = "g++"
NATIVE = ("-march=native",)
_FLAGS = (
    "-std=c++20",
    "-O3",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fPIC",
    "-w",
    "-Wno-psabi",
)


class LibraryUnavailableError(Exception):
    """The kernels can't be built here; `str(error)` says why."""


class Library:
    """The loaded kernels."""

    def __init__(self, path: Path) -> None:
        self.path = path
        library = ctypes.CDLL(str(path))
        self.team_new = library.nimlite_team_new
        self.team_new.restype = ctypes.c_void_p
        self.team_new.argtypes = (ctypes.c_int32,)
        self.team_delete = library.nimlite_team_delete
        self.team_delete.restype = None
        self.team_delete.argtypes = (ctypes.c_void_p,)
        self.run = library.nimlite_run
        self.run.restype = None
        self.run.argtypes = (
            ctypes.c_void_p,
            ctypes.POINTER(Op),
            ctypes.c_int64,
            ctypes.POINTER(RunCounts),
        )


class Team:
    """Threads that run operations together; they sleep while there are none."""

    def __init__(self, library: Library, num_threads: int) -> None:
        self.library = library
        self.num_threads = num_threads
        self._team = library.team_new(num_threads)
        # Not at exit: an operation may be running, and the threads end with the process.
        weakref.finalize(self, library.team_delete, self._team).atexit = False

    def run(self, ops: "ctypes.Array[Op]", counts: RunCounts) -> None:
        """Run the operations in order, without the interpreter's lock.

        Any thread may call it: while one is using the team, others work alone.
        """
        self.library.run(self._team, ops, len(ops), ctypes.byref(counts))


def load(cache_dir: Path, machine: Sequence[str] = NATIVE) -> Library:
    """The kernels built with the compiler's `machine` flags: from the cache, or compiled now, in a
    few seconds.

    Raises LibraryUnavailableError where there is no compiler or it fails.
    """
    path = cache_dir / f"kernels-{_key(machine)}.so"
    if not path.exists():
        cache_dir.mkdir(parents=True, exist_ok=True)
        with file_lock(cache_dir / "kernels.lock"):
            if not path.exists():
                build(path, machine)
    try:
        return Library(path)
    except OSError as error:
        raise LibraryUnavailableError(f"the compiled kernels do not load: {error}") from error


def _sources() -> list[Path]:
    return sorted([*SOURCE_DIR.glob("*.cpp"), *SOURCE_DIR.glob("*.h")])


def source_digest() -> str:
    """Digest of the sources and of the flags that hold for every machine."""
    digest = hashlib.sha256(repr(_FLAGS).encode())
    for source in _sources():
        digest.update(source.name.encode())
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _key(machine: Sequence[str]) -> str:
    """Digest of all that shapes the binary: sources, flags, compiler, and what it makes of this
    processor."""
    digest = hashlib.sha256(repr((source_digest(), tuple(machine))).encode())
    digest.update(_compiler("--version"))
    digest.update(_compiler(*machine, "-Q", "--help=target"))
    return digest.hexdigest()[:16]


def build(path: Path, machine: Sequence[str]) -> None:
    """Compile every source at once, link, and rename into place. Raises LibraryUnavailableError."""
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        sources = [source for source in _sources() if source.suffix == ".cpp"]
        objects = [str(Path(directory, f"{source.stem}.o")) for source in sources]
        running = [
            subprocess.Popen(
                [COMPILER, *_FLAGS, *machine, "-c", str(source), "-o", target],
                stderr=subprocess.PIPE,
            )
            for source, target in zip(sources, objects, strict=True)
        ]
        failures = [process.communicate()[1] for process in running]
        if any(process.returncode for process in running):
            message = b"".join(failures).decode(errors="replace")
            raise LibraryUnavailableError(f"{COMPILER} failed: {message.strip()[-2000:]}")
        linked = Path(directory, path.name)
        _compiler("-shared", "-pthread", *objects, "-o", str(linked))
        os.replace(linked, path)


def _compiler(*arguments: str) -> bytes:
    try:
        done = subprocess.run([COMPILER, *arguments], capture_output=True, check=True)
    except FileNotFoundError as error:
        raise LibraryUnavailableError(f"there is no C++ compiler ({COMPILER})") from error
    except subprocess.CalledProcessError as error:
        message = error.stderr.decode(errors="replace").strip()
        raise LibraryUnavailableError(f"{COMPILER} failed: {message[-2000:]}") from error
    return done.stdout
