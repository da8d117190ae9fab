"""Plans in a directory, each under the digest of all that shaped it."""

import dataclasses
import hashlib
import inspect
import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from nimlite.store.disk import writing_to
from nimlite.store.lock import file_lock
from nimlite.tensorrt import network, plan
from nimlite.tensorrt.plan import PlanRequest, build_plan


def plan_key(trt: ModuleType, request: PlanRequest) -> str:
    """sha256 over the network's description, the module with its version, and the targets.

    The description is the segment and the code that defines networks of segments. All middle layers
    of a decoder have one key.
    """
    segment = dataclasses.asdict(request.segment)
    # These shape cos and sin, and how often a plan is used, but no plan.
    for name in ("architecture", "num_layers", "rope", "tie_embeddings"):
        del segment["spec"][name]
    parts = {
        "segment": segment,
        "code": [_digest(inspect.getsource(module).encode()) for module in (network, plan)],
        "builder": [trt.__name__, trt.__version__],
        "targets": request.targets,
    }
    return _digest(json.dumps(parts, sort_keys=True).encode())


@dataclass(frozen=True, slots=True)
class PlanCache:
    """The plans that lie in `directory`."""

    directory: Path

    def plan(self, trt: ModuleType, request: PlanRequest) -> bytes:
        """The plan that is there, or a new one, which is kept. One process builds it, others wait.

        Raises as build_plan does, and ArtifactError for a disk that refuses.
        """
        path = self.directory / f"{plan_key(trt, request)}.plan"
        with writing_to(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            with file_lock(self.directory / "plans.lock"):
                if path.exists():
                    return path.read_bytes()
                content = build_plan(trt, request)
                unfinished = path.with_suffix(".building")
                with unfinished.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                os.rename(unfinished, path)
        return content


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
