"""Which of torch and TensorRT computes the dense parts, and why: one line for the log."""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

from nimlite.tensorrt.recorder import error_recorder
from nimlite.tensorrt.target import RTX, Capability, supported_capabilities, text

SmokeRun = Callable[[ModuleType], str | None]
"""Deserializes a plan with the given module, runs it and compares it with torch; the reason why it
may not be used, or None."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """What runs."""

    name: str
    """torch, tensorrt or tensorrt_rtx."""
    reason: str

    def __str__(self) -> str:
        return f"{self.name} runs the dense layers: {self.reason}."


def choose_runtime(
    capability: Capability, smoke_run: SmokeRun, packages: Sequence[str] = ("tensorrt", RTX)
) -> Runtime:
    """The first of `packages` that is installed, supports a GPU of `capability` and passes the
    smoke run; else torch, with each package's reason."""
    refusals = []
    for name in packages:
        problem = _problem(name, capability, smoke_run)
        if problem is None:
            return Runtime(name, f"its smoke run on compute capability {text(capability)} agreed")
        refusals.append(f"{name} {problem}")
    return Runtime("torch", "; ".join(refusals))


def refusal(module: ModuleType, plan: bytes) -> str | None:
    """Why `module` can't deserialize `plan` on this machine's GPU, in its own words; None: it can.

    A smoke run begins with it.
    """
    recorder = error_recorder(module)
    runtime = module.Runtime(module.Logger(module.Logger.INTERNAL_ERROR))
    runtime.error_recorder = recorder
    if runtime.deserialize_cuda_engine(plan) is not None:
        return None
    return recorder.descriptions[0] if recorder.descriptions else "it gave no reason"


def _problem(name: str, capability: Capability, smoke_run: SmokeRun) -> str | None:
    if importlib.util.find_spec(name) is None:
        return "is not installed"
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: a library that it loads is not there
        return f"can't be imported ({error})"
    if name == RTX and capability not in (supported := supported_capabilities(module)):
        listed = ", ".join(text(each) for each in supported)
        return (
            f"{module.__version__} does not run on compute capability {text(capability)}, only on "
            f"{listed}"
        )
    if problem := smoke_run(module):
        return f"{module.__version__} failed its smoke run ({problem})"
    return None
