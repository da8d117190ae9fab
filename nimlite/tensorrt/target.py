"""The GPUs that a plan is for, and what can't be built for them."""

from types import ModuleType
from typing import TYPE_CHECKING

from nimlite.errors import TargetError

if TYPE_CHECKING:  # it needs torch, and a dry run does not
    from nimlite.tensorrt.segment import WeightFormat

Capability = tuple[int, int]
"""A GPU's compute capability: (9, 0) is an H100's or H200's."""

RTX = "tensorrt_rtx"
"""The module of TensorRT for RTX, which builds for any GPU of a fixed list, there or not."""
_FP8_SINCE: Capability = (8, 9)
_BF16_SINCE: Capability = (8, 0)


def supported_capabilities(trt: ModuleType) -> tuple[Capability, ...]:
    """Those that TensorRT for RTX can compile for, by its own list."""
    names = [name for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    return tuple(sorted(_capability(name) for name in names))


def require_buildable(
    trt: ModuleType, targets: tuple[Capability, ...], dtype: str, weights: "WeightFormat"
) -> None:
    """Raises TargetError, which says what is possible, where `trt` can't compile such a segment for
    all of `targets`."""
    if not targets:
        raise TargetError("A TensorRT plan needs a GPU to be for: give one compute capability.")
    if trt.__name__ == RTX:
        _require_listed(trt, targets)
    elif len(targets) > 1:
        raise TargetError(
            f"TensorRT builds for the GPU that it runs on, not for {_listed(targets)} at once: "
            f"build once on each, or use {RTX}."
        )
    _require_type(
        targets, weights.startswith("fp8"), "FP8", _FP8_SINCE, "bf16, fp16 or int8 weights"
    )
    _require_type(targets, dtype == "bf16", "BF16", _BF16_SINCE, "fp16")


def text(capability: Capability) -> str:
    """As NVIDIA writes it: 9.0."""
    return f"{capability[0]}.{capability[1]}"


def _require_listed(trt: ModuleType, targets: tuple[Capability, ...]) -> None:
    supported = supported_capabilities(trt)
    if refused := [target for target in targets if target not in supported]:
        raise TargetError(
            f"TensorRT-RTX {trt.__version__} can't build for compute capability "
            f"{_listed(refused)}, only for {_listed(supported)}: use the torch backend there, or "
            "the package tensorrt."
        )


def _require_type(
    targets: tuple[Capability, ...], wanted: bool, name: str, since: Capability, instead: str
) -> None:
    if wanted and (older := [target for target in targets if target < since]):
        raise TargetError(
            f"Compute capability {_listed(older)} can't multiply {name}, only {text(since)} and "
            f"later: use {instead} there."
        )


def _listed(capabilities: tuple[Capability, ...] | list[Capability]) -> str:
    return ", ".join(text(capability) for capability in capabilities)


def _capability(name: str) -> Capability:
    number = int(name.removeprefix("SM"))
    return number // 10, number % 10
