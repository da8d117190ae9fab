"""What there is to run on: plain data.

It prints as JSON and reads back, so that a recorded machine can stand in for a real one.
"""

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from nimlite.errors import SettingError


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU as NVML shows it."""

    index: int
    name: str
    uuid: str
    pci_device: str
    """`<device>:<vendor>` in hexadecimal, as NIM's `gpu_device` tag: 2335:10de is an H200."""
    compute_capability: str
    """Such as 9.0."""
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """The processor, and the part of it that this process may use."""

    model: str
    architecture: str
    """As `uname -m` says: x86_64, aarch64."""
    physical_cores: int
    logical_cores: int
    affinity_cores: int
    """Logical cores in the affinity mask of this process."""
    quota_cores: float | None
    """The cgroup's limit; None: unlimited."""
    features: tuple[str, ...]
    """Instruction sets that decide a kernel: avx2, avx512f, avx512_vnni, amx_int8, neon, …"""

    @property
    def usable_cores(self) -> int:
        """Whole cores that both the affinity mask and the cgroup allow, at least 1."""
        quota = self.affinity_cores if self.quota_cores is None else int(self.quota_cores)
        return max(1, min(self.affinity_cores, quota))


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Host memory in bytes."""

    total_bytes: int
    available_bytes: int
    """What can still be taken, within the cgroup's limit."""
    limit_bytes: int | None
    """The cgroup's limit; None: unlimited."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """The file system under the cache."""

    path: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Software:
    """Versions that shape an engine."""

    os: str
    nimlite: str
    python: str
    torch: str | None
    """None: not installed."""
    driver: str | None
    """The GPU driver; None: no working one."""
    cuda: str | None
    """The newest CUDA that the driver serves."""


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Everything that selection may look at."""

    cpu: Cpu
    memory: Memory
    disk: Disk
    software: Software
    gpus: tuple[Gpu, ...] = field(default=())
    gpu_problem: str | None = None
    """Why no GPU was seen, in one sentence; None where there are some."""

    def to_json(self) -> str:
        """Indented JSON, without a final newline."""
        return _ADAPTER.dump_json(self, indent=2).decode()

    @classmethod
    def from_json(cls, text: str | bytes, source: str = "machine") -> "Machine":
        """Read what `to_json` wrote. Raises SettingError that names `source` and the wrong key."""
        try:
            return _ADAPTER.validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(str(part) for part in first["loc"]) or "the file"
            raise SettingError(
                f"{source} is not a recorded machine: {key}: {first['msg']}. "
                "Record one with `nimlite probe --json`."
            ) from error

    @classmethod
    def load(cls, path: Path) -> "Machine":
        """Read a recorded machine from a file."""
        return cls.from_json(path.read_bytes(), str(path))


_ADAPTER = TypeAdapter(Machine)
