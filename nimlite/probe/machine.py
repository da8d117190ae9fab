"""What there is to run on: plain data.

It prints as JSON and reads back, so that a recorded machine can stand in for a real one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

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
    """Where the two above come from: data sheet, estimate, or measured."""
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
