"""Manifests: which profiles a model family has. Plain data; reading YAML is `load.py`."""

import enum
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pydantic import ConfigDict, PositiveInt, with_config

from nimlite.profiles.shape import ModelShape
from nimlite.redaction import public
from nimlite.settings import Goal


class Precision(enum.StrEnum):
    """How the weights of the linear layers are held."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    """What GPUs before compute capability 8.0 compute in."""
    FP8 = "fp8"
    """e4m3, a scale a row, activations too (GPUs from compute capability 8.9 on)."""
    INT8_SQ = "int8_sq"
    """SmoothQuant: weights and activations, embedding and head in 16 bits."""
    INT8_WO = "int8_wo"
    """Weight-only, a scale a row, embedding and head in 16 bits."""
    INT8 = "int8"
    """Weight-only, symmetric, groups of 32 (CPU)."""
    INT4_AWQ = "int4_awq"
    """Weight-only, groups of 128, scaled by how much each channel matters."""
    INT4_GPTQ = "int4_gptq"
    """Weight-only, groups of 128, each column making up for the rounding of those before."""
    INT4 = "int4"
    """Weight-only, asymmetric, groups of 32 in the layers; embedding and head int8 (CPU)."""


class Device(enum.StrEnum):
    """What a profile runs on."""

    CPU = "cpu"
    GPU = "gpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A file (or a directory) of the model and where it comes from."""

    uri: str
    """pypi://name==version?file=member, hf://org/name@revision, file:///path, https://…"""
    sha256: str | None = None
    """Digest of the file after extraction, pinned in the manifest."""
    size: int | None = None
    """Bytes, for the progress bar."""

    @property
    def shown(self) -> str:
        """The URI as anybody may read it."""
        return public(self.uri)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One way to run the model. `id` is the sha256 of everything else in it."""

    id: str
    family: str
    device: Device
    precision: Precision
    tp: PositiveInt = 1
    """GPUs that each layer is split over."""
    pp: PositiveInt = 1
    """Groups of GPUs that the layers are split over."""
    goal: Goal | None = None
    """What its limits are made for; None: for both."""
    kv_precision: Precision
    max_model_len: PositiveInt
    max_batch_size: PositiveInt
    """Sequences that may run at once."""
    max_num_tokens: PositiveInt
    """The token budget of one step."""
    block_size: PositiveInt
    kv_cache_bytes: PositiveInt | None = None
    """None: whatever `NIM_KVCACHE_PERCENT` leaves."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """NIM's tags as `NIM_TAGS_SELECTOR` reads them: llm_engine, precision, tp, pp, profile, …
    With `gpu` (and `gpu_device`), its limits are tuned for that card."""

    @property
    def gpu(self) -> str | None:
        """The card that its limits are tuned for, such as H200."""
        return self.tags.get("gpu")

    @property
    def name(self) -> str:
        """The display name, such as nimlite-fp8-tp2-pp1-h200-latency."""
        where = (self.gpu or str(self.device)).lower().replace(" ", "_")
        goal = f"-{self.goal}" if self.goal else ""
        return f"nimlite-{self.precision}-tp{self.tp}-pp{self.pp}-{where}{goal}"

    @property
    def num_gpus(self) -> int:
        """GPUs that it takes; 0 on the CPU."""
        return self.tp * self.pp if self.device is Device.GPU else 0

    @property
    def engine_content(self) -> dict[str, Any]:
        """What of it shapes an engine directory: its tensors, and the KV cache that they were
        proved with. Limits and tags are read again at every start."""
        return {
            "device": str(self.device),
            "precision": str(self.precision),
            "tp": self.tp,
            "pp": self.pp,
            "kv_precision": str(self.kv_precision),
        }

    def identified(self) -> "Profile":
        """This profile with the tags that follow from its fields, and with its id."""
        implied = {
            "llm_engine": "nimlite",
            "device": str(self.device),
            "precision": str(self.precision),
            "tp": str(self.tp),
            "pp": str(self.pp),
        } | ({"profile": str(self.goal)} if self.goal else {})
        tagged = replace(self, tags={**implied, **self.tags})
        content = {key: value for key, value in asdict(tagged).items() if key != "id"}
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return replace(tagged, id=hashlib.sha256(canonical.encode()).hexdigest())


@with_config(ConfigDict(extra="forbid", strict=True))
@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A model family: its artifact and its profiles."""

    family: str
    display_name: str
    served_name: str
    """The name in /v1/models unless NIM_SERVED_MODEL_NAME says otherwise."""
    license: str
    artifact: Artifact
    checkpoint_precision: Precision = Precision.BF16
    """The grid that the artifact's weights lie on: a precision as fine loses nothing."""
    shape: ModelShape
    profiles: tuple[Profile, ...]

    @property
    def num_parameters(self) -> int:
        return self.shape.num_parameters
