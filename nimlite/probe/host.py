"""The host: processor, memory, disk and versions.

Linux tells most of it in /proc; elsewhere the standard library's guess stands.
"""

import os
import platform
import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from nimlite.probe.cgroup import CgroupLimits
from nimlite.probe.machine import Cpu, Disk, Memory

_FEATURES = (
    *("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16"),
    *("avx512_fp16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)
_NEON = "asimd"
"""How Linux writes what everybody else calls NEON."""


def read_cpu(limits: CgroupLimits, cpuinfo: str | None = None, root: Path = Path("/")) -> Cpu:
    """The processor; `cpuinfo` stands for /proc/cpuinfo, `root` for the file system's, in tests."""
    text = _read(Path("/proc/cpuinfo")) if cpuinfo is None else cpuinfo
    processors = [_fields(block) for block in text.strip().split("\n\n") if "processor" in block]
    first = processors[0] if processors else {}
    flags = set((first.get("flags") or first.get("Features") or "").split())
    logical = len(processors) or os.cpu_count() or 1
    # Virtual machines and most ARM kernels leave the topology out: then every processor is a core.
    topology = {(p["physical id"], p["core id"]) for p in processors if "core id" in p}
    return Cpu(
        model=first.get("model name") or platform.processor() or "unknown",
        architecture=platform.machine(),
        physical_cores=len(topology) or logical,
        logical_cores=logical,
        affinity_cores=_affinity(),
        quota_cores=limits.cpu_cores,
        features=tuple("neon" if f == _NEON else f for f in _FEATURES if f in flags),
        numa_nodes=_numa_nodes(root),
    )


def read_memory(limits: CgroupLimits, meminfo: str | None = None) -> Memory:
    """Host memory within the cgroup's limit; `meminfo` stands for /proc/meminfo in tests."""
    total, available = physical_memory(meminfo)
    if limits.memory_bytes is not None:
        available = min(available, max(0, limits.memory_bytes - limits.memory_used_bytes))
    return Memory(total_bytes=total, available_bytes=available, limit_bytes=limits.memory_bytes)


def physical_memory(meminfo: str | None = None) -> tuple[int, int]:
    """(total, available) bytes of the host, whatever a cgroup allows. Page cache is available."""
    fields = _fields(_read(Path("/proc/meminfo")) if meminfo is None else meminfo)
    if "MemTotal" not in fields:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return total, total
    return (
        int(fields["MemTotal"].split()[0]) * 1024,
        int(fields["MemAvailable"].split()[0]) * 1024,
    )


def read_container(environ: Mapping[str, str], root: Path = Path("/")) -> str | None:
    """What this process is in: kubernetes, docker, podman or container; None: nothing known."""
    if "KUBERNETES_SERVICE_HOST" in environ:
        return "kubernetes"
    if (root / ".dockerenv").exists():
        return "docker"
    if (root / "run/.containerenv").exists():
        return "podman"
    return "container" if "container" in environ else None


def read_disk(path: Path) -> Disk:
    """The file system that `path` is on, or will be on once it is made."""
    existing = path.absolute()
    while not os.path.exists(existing):  # a path's own raises where it may not look
        existing = existing.parent
    usage = shutil.disk_usage(existing)
    return Disk(path=str(path), total_bytes=usage.total, free_bytes=usage.free)


def installed_version(package: str) -> str | None:
    """The version of an installed package, without importing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _numa_nodes(root: Path) -> int:
    """Nodes with processors: a GPU's memory (GH200) is a node without any."""
    lists = (root / "sys/devices/system/node").glob("node[0-9]*/cpulist")
    return max(1, sum(bool(_read(path).strip()) for path in lists))


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _fields(text: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, separator, value in pairs if separator}


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
