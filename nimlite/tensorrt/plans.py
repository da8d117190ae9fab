"""The plans of a decoder in its engine directory, and plans.json, which says what they are for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from pydantic import TypeAdapter, ValidationError

from nimlite.build.quantize import largest_int4_group
from nimlite.errors import TargetError
from nimlite.models.spec import ModelSpec
from nimlite.profiles.manifest import Precision, Profile
from nimlite.store.inventory import PLANS_FILE
from nimlite.tensorrt.plan import PlanRequest
from nimlite.tensorrt.plan_cache import PlanCache
from nimlite.tensorrt.runtime import PACKAGES, UnavailableError, find_runtime
from nimlite.tensorrt.segment import (
    ActivationType,
    Kind,
    Segment,
    WeightFormat,
    beyond,
    segments,
)
from nimlite.tensorrt.target import Capability, require_buildable, text

_FORMATS: Mapping[Precision, tuple[ActivationType, WeightFormat]] = {
    Precision.BF16: ("bf16", "dense"),
    Precision.FP16: ("fp16", "dense"),
    Precision.FP8: ("bf16", "fp8"),
    Precision.INT8_SQ: ("bf16", "int8_dynamic"),
    Precision.INT8_WO: ("bf16", "int8"),
    Precision.INT4_AWQ: ("bf16", "int4"),
    Precision.INT4_GPTQ: ("bf16", "int4"),
}
"""Of activations and weights, as a GPU holds them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSet:
    """The plans of one decoder."""

    module: str
    """tensorrt or tensorrt_rtx: what builds and runs them."""
    version: str
    capability: Capability
    """Of the GPU that they are for."""
    dtype: ActivationType
    weights: WeightFormat
    max_tokens: int
    """The largest step."""
    max_group: int
    """Of int4 weights: the most neighbours that share a scale."""
    files: Mapping[Kind, str]
    """Empty: not built yet."""

    def __str__(self) -> str:
        groups = f" in groups of {self.max_group}" if self.weights == "int4" else ""
        return (
            f"{self.module} {self.version} for compute capability {text(self.capability)},"
            f" {self.dtype} with {self.weights} weights{groups}, steps of up to {self.max_tokens}"
            " tokens"
        )

    def segments(self, spec: ModelSpec) -> tuple[Segment, ...]:
        """What they are built of."""
        return segments(
            spec,
            dtype=self.dtype,
            weights=self.weights,
            max_tokens=self.max_tokens,
            max_group=self.max_group,
        )


_PLANS = TypeAdapter(PlanSet)


def wanted_plans(
    spec: ModelSpec,
    profile: Profile,
    capability: Capability,
    packages: Sequence[str] = PACKAGES,
) -> PlanSet:
    """The plans that would run a model on a GPU of `capability`, still to be built.

    Raises UnavailableError where there are none.
    """
    if fields := beyond(spec):
        raise UnavailableError(f"its plans know no {spec.architecture} with {', '.join(fields)}")
    if profile.precision not in _FORMATS:
        known = ", ".join(_FORMATS)
        raise UnavailableError(f"its plans hold weights in {known}, not in {profile.precision}")
    if profile.tp * profile.pp > 1:
        raise UnavailableError("its plans run on one GPU, and this profile has several")
    trt = find_runtime(capability, packages)
    dtype, weights = _FORMATS[profile.precision]
    try:
        require_buildable(trt, (capability,), dtype, weights)
    except TargetError as error:
        raise UnavailableError(str(error).removesuffix(".")) from error
    return PlanSet(
        module=trt.__name__,
        version=trt.__version__,
        capability=capability,
        dtype=dtype,
        weights=weights,
        # a power of two, so that a limit that changes a little finds its engine again
        max_tokens=1 << (profile.max_num_tokens - 1).bit_length(),
        max_group=largest_int4_group(spec),
        files={},
    )


def build_plans(trt: ModuleType, wanted: PlanSet, spec: ModelSpec, directory: Path) -> PlanSet:
    """Build the plans into `directory`, but for those that lie there, with their plans.json; any
    others are removed.

    Raises BuildError for what TensorRT refuses.
    """
    cache = PlanCache(directory)
    files = {}
    for segment in wanted.segments(spec):
        request = PlanRequest(segment=segment, targets=(wanted.capability,))
        files[segment.kind] = cache.plan(trt, request).name
    cache.keep(files.values())
    built = replace(wanted, files=files)
    (directory / PLANS_FILE).write_bytes(_PLANS.dump_json(built, indent=2))
    return built


def read_plans(directory: Path, wanted: PlanSet) -> PlanSet:
    """Those in the engine directory. Raises UnavailableError where they are not the wanted ones."""
    try:
        found = _PLANS.validate_json((directory / PLANS_FILE).read_bytes())
    except FileNotFoundError:
        raise UnavailableError("the engine was built without plans") from None
    except ValidationError:
        raise UnavailableError(f"its {PLANS_FILE} is of another version of nimlite") from None
    same = replace(wanted, max_tokens=found.max_tokens, files=found.files) == found
    if not same or found.max_tokens < wanted.max_tokens:
        raise UnavailableError(f"the engine's plans are of {found}, and those wanted of {wanted}")
    return found
