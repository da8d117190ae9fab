"""An engine directory's plans, each in a file named by the digest of all that shaped it.

<sha256>.plan    one segment's, TensorRT's own format
timing.cache     what TensorRT measured for them (TensorRT for RTX measures nothing)
"""

import dataclasses
import hashlib
import inspect
import json
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from nimlite.store.digest import FileDigest, damaged_files
from nimlite.store.inventory import ENGINE_FILE, PLANS_FILE
from nimlite.tensorrt import network, plan
from nimlite.tensorrt.plan import PlanRequest, TimingCache, build_plan
from nimlite.tensorrt.segment import SHAPING

_TIMING = "timing.cache"


def plan_key(trt: ModuleType, request: PlanRequest) -> str:
    """sha256 over the network's description, the module with its version, and the targets.

    The description is the segment and the code that defines networks of segments. All middle layers
    of a decoder have one key.
    """
    segment = dataclasses.asdict(request.segment)
    segment["spec"] = {name: segment["spec"][name] for name in sorted(SHAPING)}
    parts = {
        "segment": segment,
        "code": [_digest(inspect.getsource(module).encode()) for module in (network, plan)],
        "builder": [trt.__name__, trt.__version__],
        "targets": request.targets,
    }
    return _digest(json.dumps(parts, sort_keys=True).encode())


@dataclass(frozen=True, slots=True)
class PlanCache:
    """The plans that lie in `directory`, which nobody else writes meanwhile."""

    directory: Path

    def plan(self, trt: ModuleType, request: PlanRequest) -> Path:
        """The file of the plan: one that is there, or a new one.

        Raises as build_plan does.
        """
        path = self.directory / f"{plan_key(trt, request)}.plan"
        if not path.exists():
            known = self._timing.read_bytes() if self._timing.exists() else b""
            timing = TimingCache(known)
            path.write_bytes(build_plan(trt, request, timing))
            if timing.content != known:
                self._timing.write_bytes(timing.content)
        return path

    def keep(self, names: Collection[str]) -> None:
        """Remove the plans that are not among `names`."""
        for path in self.directory.glob("*.plan"):
            if path.name not in names:
                path.unlink()

    @property
    def _timing(self) -> Path:
        return self.directory / _TIMING


def carry_over(engine: Path, target: Path) -> None:
    """Copy what the engine directory `engine` holds of plans, and of what was measured for them, to
    `target`: a build there need not make it again. What is damaged stays behind, and so does all
    where there is no engine."""
    try:
        sealed = json.loads((engine / ENGINE_FILE).read_text())["files"]
        files = {
            name: FileDigest(**digest)
            for name, digest in sealed.items()
            if name == _TIMING or name.endswith(".plan")
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    for name in files.keys() - damaged_files(engine, files).keys():
        shutil.copyfile(engine / name, target / name)


def drop_unused(directory: Path) -> None:
    """Remove what was carried over to an engine that has no plans after all."""
    if not (directory / PLANS_FILE).exists():
        PlanCache(directory).keep(())
        (directory / _TIMING).unlink(missing_ok=True)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
