"""The probe on this machine, on recorded texts of others, and with a GPU driver that misbehaves."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nimlite.errors import SettingError
from nimlite.probe import Machine, probe
from nimlite.probe.cgroup import CgroupLimits, read_limits
from nimlite.probe.child import ask_child
from nimlite.probe.host import read_cpu, read_disk, read_memory

UNLIMITED = CgroupLimits()


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_this_machine_survives_json(tmp_path: Path) -> None:
    machine = probe(tmp_path / "not" / "yet")
    assert machine.cpu.logical_cores >= machine.cpu.usable_cores >= 1
    assert 0 < machine.memory.available_bytes <= machine.memory.total_bytes
    assert machine.disk.free_bytes > 0
    assert bool(machine.gpus) != bool(machine.gpu_problem)
    recorded = tmp_path / "machine.json"
    recorded.write_text(machine.to_json())
    assert Machine.load(recorded) == machine


@pytest.mark.parametrize(
    ("change", "key"),
    [({"cpu": 1}, "cpu"), ({"gpu": []}, "gpu"), ({"memory": {}}, "memory.total_bytes")],
)
def test_a_wrong_recording_names_its_key(
    tmp_path: Path, change: dict[str, object], key: str
) -> None:
    recorded = json.loads(probe(tmp_path).to_json()) | change
    with pytest.raises(SettingError, match=f"m.json is not a recorded machine: {key}: "):
        Machine.from_json(json.dumps(recorded), "m.json")


def test_cpu_of_an_x86_server() -> None:
    model = "model name\t: Xeon\nphysical id\t: 0\nflags\t: sse avx2 amx_int8\n"
    text = "\n\n".join(f"processor\t: {i}\ncore id\t: {i // 2}\n{model}" for i in range(8))
    cpu = read_cpu(UNLIMITED, text)
    assert (cpu.model, cpu.physical_cores, cpu.logical_cores) == ("Xeon", 4, 8)
    assert cpu.features == ("avx2", "amx_int8")


def test_cpu_of_an_arm_server_and_of_no_proc() -> None:
    arm = read_cpu(UNLIMITED, "processor\t: 0\nFeatures\t: fp asimd i8mm\n\nprocessor\t: 1\n")
    assert (arm.physical_cores, arm.features) == (2, ("neon", "i8mm"))
    assert read_cpu(UNLIMITED, "").logical_cores >= 1


@pytest.mark.parametrize(("quota", "usable"), [(None, None), (1.5, 1), (0.25, 1)])
def test_usable_cores_are_whole_and_within_the_quota(
    quota: float | None, usable: int | None
) -> None:
    cpu = read_cpu(CgroupLimits(cpu_cores=quota))
    assert cpu.usable_cores == (usable or cpu.affinity_cores)


def test_memory_is_what_the_cgroup_leaves() -> None:
    meminfo = "MemTotal: 1000 kB\nMemAvailable: 900 kB\n"
    assert read_memory(UNLIMITED, meminfo).available_bytes == 900 * 1024
    limits = CgroupLimits(memory_bytes=500_000, memory_used_bytes=100_000)
    assert read_memory(limits, meminfo).available_bytes == 400_000


def test_disk_of_a_directory_that_is_still_to_be_made(tmp_path: Path) -> None:
    disk = read_disk(tmp_path / "a" / "b")
    assert disk.path.endswith("a/b")
    assert 0 < disk.free_bytes <= disk.total_bytes


V2 = {
    "proc/self/cgroup": "0::/pod/app\n",
    "sys/fs/cgroup/pod/cpu.max": "150000 100000\n",
    "sys/fs/cgroup/pod/app/cpu.max": "max 100000\n",
    "sys/fs/cgroup/pod/app/memory.max": "1000000\n",
    "sys/fs/cgroup/pod/app/memory.current": "700000\n",
    "sys/fs/cgroup/pod/app/memory.stat": "anon 1\ninactive_file 200000\n",
}
V1 = {
    # The host's path, as a container without a cgroup namespace sees it.
    "proc/self/cgroup": "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n0::/\n",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "150000\n",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "1000000\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": "700000\n",
    "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 200000\n",
}


@pytest.mark.parametrize("files", [V2, V1], ids=["v2", "v1"])
def test_cgroup_limits(tmp_path: Path, files: dict[str, str]) -> None:
    expected = CgroupLimits(cpu_cores=1.5, memory_bytes=1_000_000, memory_used_bytes=500_000)
    assert read_limits(write(tmp_path, files)) == expected


def test_no_cgroup_limits(tmp_path: Path) -> None:
    assert read_limits(tmp_path) == UNLIMITED
    unlimited = {
        "proc/self/cgroup": "1:memory:/\n1:cpu:/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
    }
    assert read_limits(write(tmp_path, unlimited)) == UNLIMITED


@pytest.mark.parametrize(
    ("child", "problem"),
    [
        ("import threading; threading.Event().wait()", "did not answer within 0.3 s"),
        ("import os; os.abort()", "ended with status -6"),
        ("raise SystemExit('libnvidia-ml is broken')", "libnvidia-ml is broken"),
    ],
    ids=["hangs", "crashes", "complains"],
)
def test_a_broken_driver_is_a_reported_reason(child: str, problem: str) -> None:
    limit = 0.3 if "Event" in child else 10.0
    answer, reason = ask_child((sys.executable, "-c", child), "The GPU driver", timeout_s=limit)
    assert answer == {}
    assert problem in str(reason)


def test_a_missing_interpreter_is_a_reported_reason() -> None:
    assert "CUDA could not be asked" in str(ask_child(("/nowhere/python",), "CUDA")[1])


def test_probing_does_not_import_torch() -> None:
    code = "import nimlite.probe, pathlib, sys; nimlite.probe.probe(pathlib.Path())"
    code += "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
