"""The limits that a container runs under: cgroup v2, v1, or a mix of both.

Inside a container the path in /proc/self/cgroup may be the host's while the mount shows only the
container's own group, so every level from that path up to the mount is read where it exists; the
smallest limit counts, as it does in the kernel.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_UNLIMITED_BYTES = 1 << 60
"""cgroup v1 writes "no limit" as a number near 2**63."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupLimits:
    """None: unlimited."""

    cpu_cores: float | None = None
    memory_bytes: int | None = None
    memory_used_bytes: int = 0
    """What the limited group holds, without the page cache that it would give back."""


def read_limits(root: Path = Path("/")) -> CgroupLimits:
    """The limits of this process; `root` stands for the file system's root in tests."""
    cores: list[float] = []
    memory: list[tuple[int, int]] = []
    for controllers, group in _groups(root):
        mount = root / "sys/fs/cgroup"
        if controllers == "":
            unified = mount / "unified"
            for level in _levels(unified if unified.is_dir() else mount, group):
                cores += _cores_v2(level)
                memory += _memory(level, "memory.max", "memory.current", "inactive_file")
        if "cpu" in controllers.split(","):
            for level in _levels(_v1_mount(mount, controllers, "cpu"), group):
                cores += _cores_v1(level)
        if "memory" in controllers.split(","):
            for level in _levels(mount / "memory", group):
                memory += _memory(
                    level, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
                )
    limit, used = min(memory, default=(None, 0))
    return CgroupLimits(
        cpu_cores=min(cores, default=None), memory_bytes=limit, memory_used_bytes=used
    )


def _groups(root: Path) -> Iterator[tuple[str, str]]:
    """(controllers, group path) of each line `id:controllers:path`; v2 has no controllers."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        yield controllers, group


def _v1_mount(mount: Path, controllers: str, name: str) -> Path:
    joint = mount / controllers
    return joint if joint.is_dir() else mount / name


def _levels(mount: Path, group: str) -> Iterator[Path]:
    """The group's directory and all above it, up to the mount."""
    level = mount / group.strip("/")
    while level != mount:
        yield level
        level = level.parent
    yield mount


def _cores_v2(level: Path) -> list[float]:
    quota, _, period = _read(level / "cpu.max").partition(" ")
    return [int(quota) / int(period)] if quota.isdigit() else []


def _cores_v1(level: Path) -> list[float]:
    quota = _read(level / "cpu.cfs_quota_us")
    period = _read(level / "cpu.cfs_period_us")
    return [int(quota) / int(period)] if quota.isdigit() and period.isdigit() else []


def _memory(level: Path, limit_name: str, used_name: str, cache_key: str) -> list[tuple[int, int]]:
    limit = _read(level / limit_name)
    if not limit.isdigit() or int(limit) >= _UNLIMITED_BYTES:
        return []
    used = int(_read(level / used_name) or 0)
    for line in _read(level / "memory.stat").splitlines():
        key, _, value = line.partition(" ")
        if key == cache_key:
            used -= int(value)
    return [(int(limit), max(0, used))]


def _read(path: Path) -> str:
    """The file's text, or nothing where it doesn't exist or can't be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
