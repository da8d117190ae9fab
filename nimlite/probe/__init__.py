"""What is this machine? Reads, and changes nothing; no torch, no CUDA context.

machine.py  Machine and its parts        host.py  processor, memory, disk
cgroup.py   a container's limits         nvml.py  GPUs
"""

import platform
from pathlib import Path

from nimlite.probe.cgroup import read_limits
from nimlite.probe.host import installed_version, read_cpu, read_disk, read_memory
from nimlite.probe.machine import Gpu, Machine, Software
from nimlite.probe.nvml import query_gpus
from nimlite.version import __version__

__all__ = ["Machine", "probe"]


def probe(cache_path: Path) -> Machine:
    """Look at this machine; a part that can't be read is reported in the answer, not raised."""
    limits = read_limits()
    gpus, problem = query_gpus()
    return Machine(
        cpu=read_cpu(limits),
        memory=read_memory(limits),
        disk=read_disk(cache_path),
        software=Software(
            os=platform.platform(),
            nimlite=__version__,
            python=platform.python_version(),
            torch=installed_version("torch"),
            driver=gpus.get("driver"),
            cuda=gpus.get("cuda"),
        ),
        gpus=tuple(Gpu(**gpu) for gpu in gpus.get("gpus", ())),
        gpu_problem=problem,
    )
