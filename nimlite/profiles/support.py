"""What this version can execute. A profile beyond it is ranked as incompatible, with the reason."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from nimlite.layers.shard import refusal
from nimlite.models.registry import FAMILIES
from nimlite.profiles.manifest import Device, Manifest, Precision, Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Support:
    """What can be executed."""

    architectures: Collection[str]
    precisions: Mapping[Device, Collection[Precision]]
    """How the weights can be held on each device."""
    max_tp: int
    """On GPUs, as `max_pp`."""
    max_pp: int

    def reason(self, manifest: Manifest, profile: Profile) -> str | None:
        """Why a profile can't be executed, in one sentence; None: it can."""
        can = ", ".join(self.precisions[profile.device])
        if manifest.shape.architecture not in self.architectures:
            return f"This version can't compute {manifest.shape.architecture} yet."
        if profile.precision not in self.precisions[profile.device]:
            where = {Device.CPU: "the CPU", Device.GPU: "a GPU"}[profile.device]
            return f"This version can't compute {profile.precision} on {where} yet, only {can}."
        if profile.kv_precision not in (allowed := kv_precisions(profile)):
            return (
                f"Keys and values of {profile.name} can't be held in {profile.kv_precision}, only "
                f"in {' or '.join(allowed)}."
            )
        if manifest.shape.num_encoder_layers and profile.tp * profile.pp > 1:
            return "This version can't split a model with an encoder over several GPUs yet."
        on_gpus = profile.device is Device.GPU
        if on_gpus and (profile.tp > self.max_tp or profile.pp > self.max_pp):
            return (
                f"This version can't split a model tp={profile.tp}, pp={profile.pp} yet, only "
                f"up to tp={self.max_tp}, pp={self.max_pp}."
            )
        shape = manifest.shape
        heads, inner = (shape.num_heads, shape.num_kv_heads), shape.intermediate_size
        return refusal(*heads, inner, shape.num_layers, tp=profile.tp, pp=profile.pp)


def kv_precisions(profile: Profile) -> tuple[Precision, ...]:
    """What its keys and values can be held in: on a GPU as its activations are, or in 8 bits."""
    if profile.device is Device.CPU:
        return Precision.FP32, Precision.BF16
    is_half = profile.precision is Precision.FP16
    return Precision.FP16 if is_half else Precision.BF16, Precision.FP8


THIS_VERSION = Support(
    architectures=tuple(FAMILIES),
    precisions={
        Device.CPU: (
            Precision.FP32,
            Precision.BF16,
            Precision.FP8,
            Precision.INT8_SQ,
            Precision.INT8_WO,
            Precision.INT8,
            Precision.INT4_AWQ,
            Precision.INT4_GPTQ,
            Precision.INT4,
        ),
        Device.GPU: (
            Precision.BF16,
            Precision.FP16,
            Precision.FP8,
            Precision.INT8_SQ,
            Precision.INT8_WO,
            Precision.INT4_AWQ,
            Precision.INT4_GPTQ,
        ),
    },
    max_tp=1,
    max_pp=1,
)
