"""Which of the two TensorRT packages can run a model's dense layers on a GPU, and why not."""

import importlib
import importlib.util
from collections.abc import Sequence
from types import ModuleType

from nimlite.tensorrt.target import RTX, Capability, supported_capabilities, text

PACKAGES = ("tensorrt", RTX)


class UnavailableError(Exception):
    """TensorRT can't run the dense layers here: why, as the rest of a sentence."""


def find_runtime(capability: Capability, packages: Sequence[str] = PACKAGES) -> ModuleType:
    """The first of `packages` that is installed and supports a GPU of `capability`.

    Raises UnavailableError with each package's reason.
    """
    reasons = []
    for name in packages:
        found = _import(name)
        if isinstance(found, ModuleType):
            reason = _unsupported(found, capability)
            if reason is None:
                return found
        else:
            reason = found
        reasons.append(f"{name} {reason}")
    raise UnavailableError("; ".join(reasons))


def _import(name: str) -> ModuleType | str:
    """The module, or why it can't be had."""
    if importlib.util.find_spec(name) is None:
        return "is not installed"
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: a library that it loads is not there
        return f"can't be imported ({error})"


def _unsupported(module: ModuleType, capability: Capability) -> str | None:
    if module.__name__ != RTX or capability in (supported := supported_capabilities(module)):
        return None
    listed = ", ".join(text(each) for each in supported)
    return (
        f"{module.__version__} does not run on compute capability {text(capability)}, only on "
        f"{listed}"
    )
