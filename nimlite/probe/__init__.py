"""What is this machine? Reads, and changes nothing; no torch and no CUDA in this process.

machine.py   Machine and its parts           gpus.py      the GPUs in CUDA's order, and the hidden
                                             answers.py   what the children say → Gpu, Link
host.py      processor, memory, disk         visible.py   CUDA_VISIBLE_DEVICES
cgroup.py    a container's limits            cards.py     the data sheets
nvml.py      child: what the driver says     child.py     asks a child, survives it
cuda.py      child: what CUDA says           measured.py  rates measured once, kept in the cache
measure.py   child: how fast it is           recorded.py  makes profiles/machines/*.json
"""

import os
import platform
from collections.abc import Mapping
from pathlib import Path

from nimlite.probe.answers import Host
from nimlite.probe.cgroup import read_limits
from nimlite.probe.gpus import find_gpus
from nimlite.probe.host import (
    installed_version,
    physical_memory,
    read_container,
    read_cpu,
    read_disk,
    read_memory,
)
from nimlite.probe.machine import Machine, Software
from nimlite.probe.measured import load_measured
from nimlite.version import __version__

__all__ = ["Machine", "probe"]


def probe(cache_path: Path, environ: Mapping[str, str] = os.environ) -> Machine:
    """Look at this machine; a part that can't be read is reported in the answer, not raised."""
    limits = read_limits()
    total, available = physical_memory()
    container = read_container(environ)
    found = find_gpus(
        Host(
            environ=environ,
            total_bytes=total,
            available_bytes=available,
            container=container is not None,
        )
    )
    machine = Machine(
        cpu=read_cpu(limits),
        memory=read_memory(limits),
        disk=read_disk(cache_path),
        software=Software(
            os=platform.platform(),
            nimlite=__version__,
            python=platform.python_version(),
            torch=installed_version("torch"),
            driver=found.driver,
            cuda=found.cuda,
            container=container,
        ),
        gpus=found.gpus,
        gpu_problem=found.problem,
        links=found.links,
        hidden_gpus=found.hidden,
        notes=found.notes,
    )
    return load_measured(cache_path).apply(machine)
