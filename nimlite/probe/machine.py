"""What there is to run on: plain data.

It prints as JSON and reads back, so that a recorded machine can stand in for a real one.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from nimlite.data_files import data_directory
from nimlite.errors import SettingError

_STRICT = with_config(ConfigDict(extra="forbid"))


@_STRICT
@dataclass(frozen=True, slots=True, kw_only=True)
class GpuProcess:
    """A process that holds memory of a GPU."""

    pid: int
    """As the host counts: in a container it is somebody else's number, or none at all."""
    used_bytes: int | None = None
    """None: the driver does not say."""


@_STRICT
@dataclass(frozen=True, slots=True, kw_only=True)
class MigSlice:
    """The part of a partitioned GPU that one entry of `Machine.gpus` stands for."""

    profile: str
    """Such as 1g.5gb."""
    parent: str
    """The UUID of the whole GPU."""
    sm_share: float
    """Of the whole GPU's multiprocessors, in (0, 1]."""
    memory_share: float
    """Of the whole GPU's memory, and of its bandwidth, in (0, 1]."""


@_STRICT
@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU, or a MIG slice of one, that this process may use.

    Recordings from before a field existed lack it; then its default stands for "not known".
    """

    index: int
    """In CUDA's order for this process: `cuda:<index>`."""
    name: str
    uuid: str
    pci_device: str
    """`<device>:<vendor>` in hexadecimal, as NIM's `gpu_device` tag: 2335:10de is an H200."""
    compute_capability: str
    """Such as 9.0."""
    total_bytes: int
    free_bytes: int
    bus_id: str = ""
    """PCI address, such as 00000000:3B:00.0."""
    nvml_index: int | None = None
    """The number that nvidia-smi shows."""
    multiprocessors: int | None = None
    memory_bandwidth: float | None = None
    """Bytes/s of reads and writes together."""
    flops: Mapping[str, float] = field(default_factory=dict)
    """Peak dense FLOP/s by precision (fp32, fp16, bf16, fp8, int8), with fp32 sums where the card
    is slower at those. A precision that the tensor cores lack is absent; fp32 is without them."""
    rates_from: str = ""
    """Where the two above come from: the data sheet's name, or "estimate"."""
    measured_bandwidth: float | None = None
    """Bytes/s that a large copy or sum reached, by `nimlite probe --measure`."""
    measured_flops: Mapping[str, float] = field(default_factory=dict)
    """FLOP/s that a large matrix product reached, by precision."""
    unified_memory: bool = False
    """The GPU has no memory of its own: what it takes is missing from the host's (GB10)."""
    coherent: bool = False
    """The CPU reaches the GPU's memory as its own, page cache and all (GH200, GB200, GB10)."""
    mig_enabled: bool | None = None
    """The card's MIG mode; None: it has none."""
    mig: MigSlice | None = None
    """None: the whole card."""
    ecc: bool | None = None
    """None: the card has none."""
    power_limit_watts: float | None = None
    numa_node: int | None = None
    pcie_bandwidth: float | None = None
    """Bytes/s to the host, one way, as the link was trained at its widest."""
    processes: tuple[GpuProcess, ...] = ()
    """Who else computes on the card."""


@_STRICT
@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """How two of the machine's GPUs reach each other."""

    gpus: tuple[int, int]
    """Their `Gpu.index`, the smaller first."""
    nvlinks: int = 0
    """NVLinks between them, or from each to a switch that both are on."""
    p2p: bool = False
    """Whether one can read and write the other's memory."""
    path: str = ""
    """The way over PCIe, as `nvidia-smi topo -m` writes it: PIX, PXB, PHB, NODE or SYS."""
    bandwidth: float | None = None
    """Bytes/s one way, by NVLink where there is one, else by PCIe."""


@_STRICT
@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenGpu:
    """A GPU of the host that this process can't use."""

    name: str
    uuid: str
    reason: str
    """One sentence."""


@_STRICT
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
    numa_nodes: int = 1
    """Nodes that hold memory of their own, a GPU's not counted."""

    @property
    def usable_cores(self) -> int:
        """Whole cores that both the affinity mask and the cgroup allow, at least 1."""
        quota = self.affinity_cores if self.quota_cores is None else int(self.quota_cores)
        return max(1, min(self.affinity_cores, quota))


@_STRICT
@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Host memory in bytes."""

    total_bytes: int
    available_bytes: int
    """What can still be taken, within the cgroup's limit."""
    limit_bytes: int | None
    """The cgroup's limit; None: unlimited."""
    bandwidth: float | None = None
    """Bytes/s by the data sheet; None: not known."""
    measured_bandwidth: float | None = None
    """Bytes/s that reading with all threads reached."""


@_STRICT
@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """The file system under the cache."""

    path: str
    total_bytes: int
    free_bytes: int
    read_bandwidth: float | None = None
    """Bytes/s of one large file, past the page cache; None: not measured."""
    write_bandwidth: float | None = None


@_STRICT
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
    container: str | None = None
    """What this process is in: docker, podman, kubernetes, container; None: nothing."""


@_STRICT
@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Everything that selection may look at."""

    cpu: Cpu
    memory: Memory
    disk: Disk
    software: Software
    gpus: tuple[Gpu, ...] = ()
    """What this process may use, in CUDA's order."""
    gpu_problem: str | None = None
    """Why no GPU was seen, in one sentence; None where there are some."""
    links: tuple[Link, ...] = ()
    """A pair of GPUs each, whole cards only."""
    hidden_gpus: tuple[HiddenGpu, ...] = ()
    """What the host has beside them, and what hides it."""
    notes: tuple[str, ...] = ()
    """What the probe could not find out, and what it found odd, a sentence each."""

    def to_json(self) -> str:
        """Indented JSON, without a final newline."""
        return _ADAPTER.dump_json(self, indent=2).decode()

    def save(self, path: Path) -> None:
        """Write a file that `load` reads. Raises SettingError where it can't be written."""
        try:
            path.write_text(self.to_json() + "\n")
        except OSError as error:
            raise SettingError(
                f"The machine can't be written to {path}: {error.strerror}."
            ) from error

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
                "Record one with `nimlite probe --save FILE`."
            ) from error

    @classmethod
    def load(cls, source: str | Path) -> "Machine":
        """Read a recorded machine: a file, or the name of one in profiles/machines, as h200.

        Raises SettingError where there is no such file or name, or where it is no machine.
        """
        path = Path(source).expanduser()
        if not path.exists() and path.name == str(source):
            path = machines_directory() / f"{path.name.removesuffix('.json')}.json"
        if not path.exists():
            raise _no_machine(str(source))
        try:
            return cls.from_json(path.read_bytes(), str(source))
        except OSError as error:
            raise SettingError(f"The machine {source} can't be read: {error.strerror}.") from error


_ADAPTER = TypeAdapter(Machine)


def machines_directory() -> Path:
    """Where the recorded machines lie that come with nimlite."""
    return data_directory("profiles") / "machines"


def _no_machine(source: str) -> SettingError:
    names = sorted(path.stem for path in machines_directory().glob("*.json"))
    close = difflib.get_close_matches(source.lower().removesuffix(".json"), names, n=3, cutoff=0.4)
    meant = f" Did you mean {' or '.join(close)}?" if close else ""
    return SettingError(
        f"The machine {source!r} is neither a file nor one of the {len(names)} recorded in "
        f"{machines_directory()}.{meant} Record a machine with `nimlite probe --save FILE`."
    )
